"""The services that follow the log: `features` and `feeds`, each one Faust app and one process, over `transport`."""
