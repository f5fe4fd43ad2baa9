"""How good a ranking is: `metrics` holds the measures, `holdout` asks them of the later slice of a log."""
