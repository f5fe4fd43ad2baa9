"""What is claimed of the system in figures, measured; nothing but tests imports this package.

run.py, hot_swap.py                   make bench            speed, and a change of champion under load
loop.py ─► learning.py, trials.py …   make bench-learning   what people make of feeds that learn, in simulated time, no servers
quality.py ─► ranked.py               make bench-quality    how well models rank a log
parts.py, objective.py, looks.py      make bench-quality    what parts, weights of tasks and looks are worth in front of people
refusals.py                           make demo-refusals    bad challengers, and why none is promoted
report.py writes what these left in var/ into the documents
"""
