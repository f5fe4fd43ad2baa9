"""The only places that talk to servers: `kafka` (topics and messages), `redis` (state), `feeds` (ranked feeds).

Key names and scripts live here; only services import this package, and the rest of `feed` knows nothing of it.
"""
