"""Feeds over HTTP: `app` validates, reads or ranks, and answers; `main` runs it."""
