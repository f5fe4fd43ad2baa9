"""What is watched.

`quality` holds the figures of a full ranking, `served` those of the feeds people were shown; `figures`, `change` and `drift`
find out that the world has changed, and `alerts` is what is then said.
"""
