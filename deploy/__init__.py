"""How Feedloop is started: the embedded servers, `make up`, the demo. Nothing else imports this, except tests."""
