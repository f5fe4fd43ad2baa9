from feed.evaluation.tuning import search


def test_the_search_finds_the_best_where_names_matter_one_by_one():
    best, tried = search({"a": (5, 1, 3), "b": (0, 9, 4)}, lambda p: -abs(p["a"] - 3) - abs(p["b"] - 4))
    assert best.parameters == {"a": 3, "b": 4}
    assert tried[0].parameters == {"a": 5, "b": 0}


def test_nothing_is_run_twice():
    runs = []
    search({"a": (1, 2), "b": (1, 2)}, lambda p: runs.append(tuple(p.values())) or 0.0)
    assert sorted(runs) == sorted(set(runs))


def test_a_model_without_a_grid_is_run_once():
    best, tried = search({}, lambda p: 0.5)
    assert (best.parameters, len(tried)) == ({}, 1)
