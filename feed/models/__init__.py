"""Models, how they are trained, and how they rest on disk.

`two_tower` holds the served model, `train` its examples, loss and loop, `snapshot` the folder of one trained version.
"""
