"""Learning from the log of examples: records in, steps, a state that can be saved between any two records.

`learner` takes the records one by one and decides when to step; `loss` is what a step descends, `optimiser` how, `guard` when
not to. `memory` keeps what is needed of earlier records (replayed examples, the items to draw negatives from), `growth` gives
ids that the first weights did not know rows of their own, `state` puts everything into a version's folder and takes it out
again. All of it is a function of the log and a seed.
"""
