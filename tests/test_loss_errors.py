"""Calls of the losses and decisions that cannot be answered: the exception names the argument."""

import ml_dtypes
import numpy as np
import pytest

X = np.arange(6.0).reshape(2, 3)
LABELS = np.array([0, 2])
Y = np.full((2, 3), 1 / 3)


def read_only(a):
    a.flags.writeable = False
    return a


VALID = {
    "predict": {"logits": X},
    "top_k": {"logits": X, "k": 2},
    "softmax_logsumexp": {"x": X},
    "cross_entropy": {"logits": X, "target": LABELS},
    "nll_loss": {"log_probs": X, "target": LABELS},
    "softmax_backward": {"grad": X, "y": Y},
    "log_softmax_backward": {"grad": X, "log_y": Y},
    "softmax_grad_hess": {"logits": X, "target": LABELS},
}
LOSSES = ("cross_entropy", "nll_loss")
BACKWARD = ("softmax_backward", "log_softmax_backward")
LABELLED = (*LOSSES, "softmax_grad_hess")
ONE_AXIS = ("predict", "top_k", *LOSSES)
SEVERAL_AXES = ("softmax_logsumexp", *BACKWARD)
WITH_OUT = SEVERAL_AXES
WITH_WORKERS = tuple(function for function in VALID if function != "nll_loss")
E = np.exceptions.AxisError

# Functions, what replaces or joins their valid arguments, the exception, what its message says.
ERRORS = {
    "axis too large": ((*ONE_AXIS, *SEVERAL_AXES), {"axis": 2}, E, "axis 2 .*dimension 2"),
    "axis too small": ((*ONE_AXIS, *SEVERAL_AXES), {"axis": -3}, E, "axis -3 .*dimension 2"),
    "axis not whole": ((*ONE_AXIS, *SEVERAL_AXES), {"axis": 1.0}, TypeError, "axis"),
    "axis a string": ((*ONE_AXIS, *SEVERAL_AXES), {"axis": "1"}, TypeError, "axis"),
    "several axes": (ONE_AXIS, {"axis": (0, 1)}, TypeError, "axis must be an integer"),
    "no axis": (LOSSES, {"axis": None}, TypeError, "axis must be an integer, got None"),
    "axis twice": (SEVERAL_AXES, {"axis": (0, 0)}, ValueError, "axis"),
    "no dimension": (LOSSES, {"X": 1.0, "target": 0}, E, "axis -1 .*dimension 0"),
    "no classes": (("predict",), {"X": X[:, :0]}, ValueError, r"logits has shape \(2, 0\)"),
    "k too large": (("top_k",), {"k": 4}, ValueError, "k must be from 0 to 3, got 4"),
    "k negative": (("top_k",), {"k": -1}, ValueError, "k must be from 0 to 3, got -1"),
    "k not whole": (("top_k",), {"k": 2.0}, TypeError, "k must be an integer, got 2.0"),
    "k nothing": (("top_k",), {"k": None}, TypeError, "k must be an integer"),
    "target too short": (LABELLED, {"target": [0]}, ValueError, r"target .*\(1,\), need \(2,\)"),
    "target too long": (LABELLED, {"target": [0, 1, 2]}, ValueError, "target has shape"),
    "target as rows": (LABELLED, {"target": X.astype(int)}, ValueError, r"target .*need \(2,\)"),
    "label too large": (
        LABELLED,
        {"target": [0, 3]},
        IndexError,
        "target 3 is out of range for 3 classes",
    ),
    "label negative": (LABELLED, {"target": [-1, 0]}, IndexError, "target -1 is out of range"),
    "label huge": (
        LABELLED,
        {"target": np.array([0, 2**64 - 100], np.uint64)},
        IndexError,
        "target 18446744073709551516 is out of range",
    ),
    "label ignored by another": (
        LOSSES,
        {"target": [0, -100], "ignore_index": 255},
        IndexError,
        "target -100 .*not ignore_index 255",
    ),
    "labels -100 where none is ignored": (
        ("softmax_grad_hess",),
        {"target": [0, -100]},
        IndexError,
        "target -100 is out of range",
    ),
    "target of bools": (LABELLED, {"target": [True, False]}, TypeError, "target has dtype bool"),
    "target of strings": (LABELLED, {"target": ["a", "b"]}, TypeError, "target has dtype <U1"),
    "target complex": (LABELLED, {"target": [1j, 0]}, TypeError, "target has dtype complex128"),
    "target of objects": (LABELLED, {"target": [None, 0]}, TypeError, "target has dtype object"),
    "target of durations": (
        LABELLED,
        {"target": LABELS.astype("m8[s]")},
        TypeError,
        "target has dtype timedelta64",
    ),
    "target masked": (LABELLED, {"target": np.ma.array(LABELS)}, TypeError, "target .*MaskedArray"),
    "floating labels": (
        ("cross_entropy",),
        {"target": [0.0, 2.0]},
        ValueError,
        r"target has shape \(2,\), need \(2, 3\) for probabilities; .*integer",
    ),
    "floating labels of others": (
        ("nll_loss", "softmax_grad_hess"),
        {"target": [0.0, 2.0]},
        TypeError,
        "target has dtype float64, need integers",
    ),
    "probabilities that would broadcast": (
        ("cross_entropy",),
        {"target": Y[:1]},
        ValueError,
        r"target has shape \(1, 3\), need \(2, 3\)",
    ),
    "weight of too few": (LABELLED, {"weight": [1.0]}, ValueError, r"weight has shape \(1,\)"),
    "weight of no dimension": (LABELLED, {"weight": 1.0}, ValueError, r"weight has shape \(\)"),
    "weight for each element": (LABELLED, {"weight": Y}, ValueError, "weight has shape"),
    "weight negative": (LOSSES, {"weight": [1, -2, 1]}, ValueError, "weight .*not negative.* -2"),
    "weight nan": (LOSSES, {"weight": [1, np.nan, 1]}, ValueError, "weight must be finite"),
    "weight infinite": (LOSSES, {"weight": [1, np.inf, 1]}, ValueError, "weight must be finite"),
    "weight of a sample negative": (
        ("softmax_grad_hess",),
        {"weight": [1, -2]},
        ValueError,
        "weight .*not negative.* -2",
    ),
    "weight complex": (LABELLED, {"weight": [1j, 1, 1]}, TypeError, "weight has dtype complex"),
    "weight of strings": (LABELLED, {"weight": ["1"] * 3}, TypeError, "weight has dtype"),
    "weight masked": (LABELLED, {"weight": np.ma.ones(3)}, TypeError, "weight .*MaskedArray"),
    "reduction unknown": (
        LOSSES,
        {"reduction": "median"},
        ValueError,
        "reduction must be one of none, mean, sum, got 'median'",
    ),
    "label_smoothing beyond any float": (
        ("cross_entropy",),
        {"label_smoothing": 10**400},
        ValueError,
        "label_smoothing must be from 0 to 1",
    ),
    "weight beyond float64": (
        LOSSES,
        {"weight": np.full(3, np.finfo(np.longdouble).max)},
        ValueError,
        "weight must be finite",
    ),
    "reduction nothing": (LOSSES, {"reduction": None}, ValueError, "reduction .* got None"),
    "reduction an array": (LOSSES, {"reduction": X}, ValueError, "reduction must be one of"),
    "ignore_index not whole": (LOSSES, {"ignore_index": 1.5}, TypeError, "ignore_index .*1.5"),
    "ignore_index nothing": (LOSSES, {"ignore_index": None}, TypeError, "ignore_index .*None"),
    "smoothing too large": (
        ("cross_entropy",),
        {"label_smoothing": 1.1},
        ValueError,
        "label_smoothing must be from 0 to 1, got 1.1",
    ),
    "smoothing negative": (
        ("cross_entropy",),
        {"label_smoothing": -0.1},
        ValueError,
        "label_smoothing",
    ),
    "smoothing nan": (
        ("cross_entropy",),
        {"label_smoothing": np.nan},
        ValueError,
        "label_smoothing",
    ),
    "smoothing a string": (
        ("cross_entropy",),
        {"label_smoothing": "0"},
        TypeError,
        "label_smoothing must be a number",
    ),
    "factor zero": (("softmax_grad_hess",), {"factor": 0}, ValueError, "factor .*positive.*0"),
    "factor infinite": (("softmax_grad_hess",), {"factor": np.inf}, ValueError, "factor .*inf"),
    "factor an array": (("softmax_grad_hess",), {"factor": X}, TypeError, "factor must be a num"),
    "logits of one row": (
        ("softmax_grad_hess",),
        {"logits": X[0]},
        ValueError,
        r"logits has shape \(3,\), need \(samples, classes\)",
    ),
    "grad of another shape": (
        BACKWARD,
        {"grad": X[:1]},
        ValueError,
        r"grad has shape \(1, 3\), need \(2, 3\), that of (log_)?y",
    ),
    "grad complex": (BACKWARD, {"grad": X + 1j}, TypeError, "grad has dtype complex128"),
    "grad of strings": (BACKWARD, {"grad": X.astype(str)}, TypeError, "grad has dtype <U32"),
    "grad masked": (BACKWARD, {"grad": np.ma.array(X)}, TypeError, "grad is a .*MaskedArray"),
    "out a list": (WITH_OUT, {"out": [0.0]}, TypeError, "out must be a numpy.ndarray, got list"),
    "out of another dtype": (
        WITH_OUT,
        {"out": np.zeros((2, 3), np.float32)},
        TypeError,
        "out has dtype float32, need float64",
    ),
    "out of another shape": (
        WITH_OUT,
        {"out": np.zeros((3, 2))},
        ValueError,
        r"out has shape \(3, 2\), need \(2, 3\)",
    ),
    "out read-only": (WITH_OUT, {"out": read_only(np.zeros((2, 3)))}, ValueError, "read-only"),
    "workers zero": (WITH_WORKERS, {"workers": 0}, ValueError, "workers must not be 0"),
    "workers zero, with a place for the result": (
        WITH_OUT,
        {"workers": 0, "out": np.full((2, 3), 42.0)},
        ValueError,
        "workers must not be 0",
    ),
    "workers too far back": (
        WITH_WORKERS,
        {"workers": -(10**6)},
        ValueError,
        "workers is -1000000, need",
    ),
    "workers not whole": (
        WITH_WORKERS,
        {"workers": 2.0},
        TypeError,
        "workers must be an integer.*float",
    ),
    "where of numbers": (("softmax_logsumexp",), {"where": X}, TypeError, "where has dtype"),
    "dtype of integers": (("softmax_logsumexp",), {"dtype": int}, TypeError, "dtype .*int64"),
}

LOGITS = {
    "complex": (X + 1j, "has dtype complex128, need real numbers"),
    "objects": (X.astype(object), "has dtype object"),
    "strings": (X.astype(str), "has dtype <U32"),
    "dates": (X.astype("M8[s]"), "has dtype datetime64"),
    "eight-bit floats": (X.astype(ml_dtypes.float8_e4m3fn), "has dtype float8_e4m3fn"),
    "masked": (np.ma.array(X), "is a numpy.ma.MaskedArray"),
    "a matrix": (X.view(np.matrix), "is a numpy.matrix"),
}

CASES = [(function, case) for case, (functions, *_) in ERRORS.items() for function in functions]


def freeze(arguments):
    return {
        name: a.tobytes() if isinstance(a, np.ndarray) else repr(a) for name, a in arguments.items()
    }


@pytest.mark.parametrize(("function", "case"), CASES)
def test_error(api, function, case):
    _, options, exception, message = ERRORS[case]
    first = next(iter(VALID[function]))
    arguments = VALID[function] | {first if n == "X" else n: a for n, a in options.items()}
    before = freeze(arguments)
    with pytest.raises(exception, match=message) as caught:
        getattr(api, function)(**arguments)
    assert caught.value.__cause__ is None
    assert freeze(arguments) == before


@pytest.mark.parametrize("function", VALID)
@pytest.mark.parametrize("case", LOGITS)
def test_logits_of_a_wrong_kind(api, function, case):
    wrong, message = LOGITS[case]
    name = {"softmax_backward": "y", "log_softmax_backward": "log_y"}.get(
        function, next(iter(VALID[function]))
    )
    with pytest.raises(TypeError, match=f"^{name} {message}"):
        getattr(api, function)(**VALID[function] | {name: wrong})


@pytest.mark.parametrize("function", VALID)
def test_valid_arguments_are_accepted(api, function):
    """Otherwise the errors above might have another cause."""
    assert getattr(api, function)(**VALID[function]) is not None


POSITIONAL = {
    "predict": 2,
    "top_k": 3,
    "softmax_logsumexp": 2,
    "cross_entropy": 3,
    "nll_loss": 3,
    "softmax_backward": 3,
    "log_softmax_backward": 3,
    "softmax_grad_hess": 3,
}


@pytest.mark.parametrize("function", POSITIONAL)
def test_options_are_keyword_only(api, function):
    with pytest.raises(TypeError, match="positional"):
        getattr(api, function)(*[None] * (POSITIONAL[function] + 1))
