"""The domain of Feedloop: everything that stays true without Kafka, Redis, HTTP or a scheduler.

Read `events` (what happened) and `wire` (how processes tell each other) first, then `features` (what is known of users
and items), `models` (how they are scored) and `ranking` (how scores become a feed). Only `feed.io` talks to servers.
"""
