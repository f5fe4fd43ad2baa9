"""From a user's state to a feed: sources -> filters -> scorers -> selection.

`standard` holds the one ordered list that is the product's policy. Candidates are columns (one number an item, or one a
user and item), never objects. `arms` says who gets which kind of feed, `feed` what a feed is, `index` the catalogue as
of one refresh, and `live` keeps a ranker up to date with catalogue and champion.
"""
