"""softmax_grad_hess as a custom objective grows the trees that the libraries' own objective grows.

On continuous features and noisy labels, where no two splits are equally good but for rounding.
"""

import json

import numpy as np
import pytest

CLASSES, ROUNDS = 4, 5


def data(dtype=np.float64):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 3)).astype(dtype)
    noisy = features @ rng.normal(size=(3, CLASSES)) + rng.normal(size=(400, CLASSES))
    return features, noisy.argmax(axis=1), rng.uniform(0.5, 2.0, 400).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True])
def test_xgboost(api, weighted):
    xgboost = pytest.importorskip("xgboost")
    features, labels, weight = data(np.float32)
    matrix = xgboost.DMatrix(features, labels, weight=weight if weighted else None)
    options = {"num_class": CLASSES, "max_depth": 3, "base_score": 0.5, "nthread": 1, "eta": 0.3}

    def objective(scores, matrix):
        target = matrix.get_label().astype(int)
        return api.softmax_grad_hess(
            scores, target, matrix.get_weight() if weighted else None, factor=2.0
        )

    theirs = xgboost.train(options | {"objective": "multi:softprob"}, matrix, ROUNDS)
    ours = xgboost.train(
        options | {"disable_default_eval_metric": 1}, matrix, ROUNDS, obj=objective
    )
    assert_same_trees(
        *(list(map(json.loads, m.get_dump(dump_format="json"))) for m in (ours, theirs))
    )
    margins = (m.predict(matrix, output_margin=True) for m in (ours, theirs))
    np.testing.assert_allclose(*margins, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_lightgbm(api, weighted):
    lightgbm = pytest.importorskip("lightgbm")
    features, labels, weight = data()
    options = {
        "num_class": CLASSES,
        "max_depth": 3,
        "boost_from_average": False,
        "num_threads": 1,
        "deterministic": True,
        "verbosity": -1,
    }

    def objective(scores, dataset):
        return api.softmax_grad_hess(
            scores,
            dataset.get_label().astype(int),
            dataset.get_weight(),
            factor=CLASSES / (CLASSES - 1),
        )

    models = [
        lightgbm.train(
            options | {"objective": each},
            lightgbm.Dataset(features, labels, weight=weight if weighted else None),
            ROUNDS,
        )
        for each in (objective, "multiclass")
    ]
    trees = [[t["tree_structure"] for t in m.dump_model()["tree_info"]] for m in models]
    assert_same_trees(*trees)
    np.testing.assert_allclose(
        *(m.predict(features, raw_score=True) for m in models), rtol=1e-4, atol=1e-5
    )


STRUCTURE = ("split", "split_feature", "split_condition", "threshold", "nodeid", "split_index")


def assert_same_trees(ours, theirs):
    """The same features and thresholds at every node."""
    assert len(ours) == len(theirs) == CLASSES * ROUNDS
    shapes = [list(map(structure, trees)) for trees in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert all(len(tree) > 1 for tree in shapes[0])


def structure(node):
    children = [*node.get("children", []), node.get("left_child"), node.get("right_child")]
    own = [node.get(name) for name in STRUCTURE]
    return own + [structure(child) for child in children if child is not None]
