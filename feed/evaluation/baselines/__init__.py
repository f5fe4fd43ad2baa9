"""What a learned ranking has to beat; the grids they are tuned on stand in `feed.evaluation.models`.

`popular` counts, `ease` has item-item matrices, `factors` what the package implicit trains, `sasrec` and `naive` are nets;
`weighted` sums the columns of `columns` with weights that learn online. All are `feed.evaluation.protocol.Recommender`s: state
(histories, counts) follows every event, weights stay as they were fitted unless it says otherwise.
"""
