"""What a learned ranking has to beat, each with the grid that it is tuned on.

`popular` counts, `ease` has item-item matrices. All are `feed.evaluation.protocol.Recommender`s: state (histories, counts)
follows every event, weights stay as they were fitted unless it says otherwise.
"""
