"""What is claimed of the system in figures, measured; nothing but tests imports this package.

run.py, hot_swap.py                   make bench            speed, and a change of champion under load
loop.py ─► learning.py, trials.py …   make bench-learning   what people make of feeds that learn, in simulated time, no servers
quality.py, objective.py              make bench-quality    how well models rank a log, part by part
refusals.py                           make demo-refusals    bad challengers, and why none is promoted
report.py writes what these left in var/ into the documents
"""
