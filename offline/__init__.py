"""Batch commands: what is computed from a whole log, or once.

topics ─► export.py ─► data format ─► bootstrap.py ─► registry (first champion) ─► rank.py ─► Redis feeds, rankings.csv
seed.py does all of it for an empty system; report.py prints what a ranking did; show.py prints one user's feed
"""
