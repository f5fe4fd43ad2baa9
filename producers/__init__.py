"""Where events come from: a simulated audience, a generated history, or a log that is replayed.

    names ─► world ─► behaviour ─► audience ─┬─► history ─► generate.py   a log in the data format
             hidden   what a      who comes, │          └─► facts         `simulate.py --describe`
             tastes   person does what they  └─► live ────► simulate.py   events to Kafka, reacting to feeds in Redis
                                  have seen

Nothing but tests and benchmarks imports this package, so the hidden tastes cannot leak into what learns.
"""
