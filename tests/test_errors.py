"""A call that cannot be answered says which argument is wrong, and how, and changes nothing."""

import ml_dtypes
import numpy as np
import pytest

X = np.arange(6.0).reshape(2, 3)
F = np.float32


def read_only(a):
    a.flags.writeable = False
    return a


MAPS = ("softmax", "log_softmax")
ALL = (*MAPS, "logsumexp")
REDUCTION = ("logsumexp",)

# Functions; arguments besides the logits, which are X unless given as "x"; the exception; and what
# its message says, in which LOGITS stands for the name of that first argument.
ERRORS = {
    "axis too large": (ALL, {"axis": 2}, np.exceptions.AxisError, "axis 2 .*dimension 2"),
    "axis beyond any integer": (ALL, {"axis": 2**70}, np.exceptions.AxisError, "axis 1180.*"),
    "an axis beyond any integer": (ALL, {"axis": (2**70,)}, np.exceptions.AxisError, "axis"),
    "axis too small": (ALL, {"axis": -3}, np.exceptions.AxisError, "axis -3 .*dimension 2"),
    "axis of a tuple": (ALL, {"axis": (0, 2)}, np.exceptions.AxisError, "axis 2 .*dimension 2"),
    "axis twice": (ALL, {"axis": (0, 0)}, ValueError, "axis"),
    "axis twice, of both signs": (ALL, {"axis": (1, -1)}, ValueError, "axis"),
    "axis not whole": (ALL, {"axis": 1.0}, TypeError, "axis"),
    "axis a string": (ALL, {"axis": "1"}, TypeError, "axis"),
    "axis an array": (ALL, {"axis": np.array([0.5])}, TypeError, "axis"),
    "objects": (ALL, {"x": X.astype(object)}, TypeError, "LOGITS has dtype object"),
    "strings": (ALL, {"x": X.astype(str)}, TypeError, "LOGITS has dtype <U32"),
    "bytes": (ALL, {"x": X.astype(bytes)}, TypeError, r"LOGITS has dtype \|S32"),
    "dates": (ALL, {"x": X.astype("M8[s]")}, TypeError, "LOGITS has dtype datetime64"),
    "durations": (ALL, {"x": X.astype("m8[s]")}, TypeError, "LOGITS has dtype timedelta64"),
    "records": (ALL, {"x": X.view("f8,f8,f8")}, TypeError, "LOGITS has dtype"),
    "raw memory": (ALL, {"x": X.view("V8")}, TypeError, r"LOGITS has dtype \|V8"),
    "eight-bit floats": (
        ALL,
        {"x": X.astype(ml_dtypes.float8_e4m3fn)},
        TypeError,
        "LOGITS has dtype float8_e4m3fn",
    ),
    "four-bit integers": (ALL, {"x": X.astype(ml_dtypes.int4)}, TypeError, "LOGITS has dtype int4"),
    "nothing": (ALL, {"x": None}, TypeError, "LOGITS has dtype object"),
    "ragged lists": (ALL, {"x": [[1.0], [1.0, 2.0]]}, ValueError, "LOGITS: .*inhomogeneous"),
    "a masked array": (
        ALL,
        {"x": np.ma.array(X, mask=X > 3)},
        TypeError,
        "LOGITS is a .*MaskedArray.*where",
    ),
    "a matrix": (ALL, {"x": X.view(np.matrix)}, TypeError, "LOGITS is a .*matrix"),
    "where of numbers": (ALL, {"where": X}, TypeError, "where has dtype float64, need bool"),
    "where of integers": (ALL, {"where": [[1, 0, 1]]}, TypeError, "where has dtype int64"),
    "where of another shape": (
        ALL,
        {"where": np.ones((2, 2), bool)},
        ValueError,
        r"where .*\(2, 2\)",
    ),
    "where of more dimensions": (ALL, {"where": np.ones((2, 2, 3), bool)}, ValueError, "where"),
    "where masked itself": (ALL, {"where": np.ma.array(X > 0)}, TypeError, "where"),
    "temperature zero": (MAPS, {"temperature": 0.0}, ValueError, "temperature .*positive.* 0"),
    "temperature negative zero": (MAPS, {"temperature": -0.0}, ValueError, "temperature"),
    "temperature negative": (MAPS, {"temperature": -1}, ValueError, "temperature .*positive.* -1"),
    "temperature nan": (MAPS, {"temperature": np.nan}, ValueError, "temperature .*nan"),
    "temperature infinite": (MAPS, {"temperature": np.inf}, ValueError, "temperature .*inf"),
    "temperature tiny": (
        MAPS,
        {"temperature": np.longdouble("1e-4000")},
        ValueError,
        "temperature",
    ),
    "temperature huge": (MAPS, {"temperature": 10**400}, (ValueError, TypeError), "temperature"),
    "one temperature wrong": (
        MAPS,
        {"axis": 1, "temperature": [[1.0], [-2.0]]},
        ValueError,
        "temperature .*positive.* -2",
    ),
    "temperature complex": (MAPS, {"temperature": 1j}, TypeError, "temperature .*complex"),
    "temperature a string": (MAPS, {"temperature": "1"}, TypeError, "temperature"),
    "temperature nothing": (MAPS, {"temperature": None}, TypeError, "temperature"),
    "temperature an object": (MAPS, {"temperature": object()}, TypeError, "temperature"),
    "temperature of another shape": (
        MAPS,
        {"axis": 1, "temperature": np.ones((3, 1))},
        ValueError,
        r"temperature .*\(3, 1\).*\(2, 1\)",
    ),
    "temperature for each element": (
        MAPS,
        {"axis": 1, "temperature": np.ones((2, 3))},
        ValueError,
        r"temperature .*\(2, 3\).*\(2, 1\)",
    ),
    "temperature of the other axis": (
        MAPS,
        {"axis": 1, "temperature": np.ones(3)},
        ValueError,
        "temperature",
    ),
    "temperature of more dimensions": (
        MAPS,
        {"axis": 1, "temperature": np.ones((1, 2, 1))},
        ValueError,
        "temperature",
    ),
    "dtype of integers": (ALL, {"dtype": np.int64}, TypeError, "dtype .*int64"),
    "dtype bool": (ALL, {"dtype": bool}, TypeError, "dtype .*bool"),
    "dtype of objects": (ALL, {"dtype": object}, TypeError, "dtype .*object"),
    "dtype complex of real input": (ALL, {"dtype": np.complex128}, TypeError, "dtype .*complex128"),
    "dtype real of complex input": (ALL, {"x": X + 1j, "dtype": F}, TypeError, "dtype .*float32"),
    "dtype of eight bits": (
        ALL,
        {"dtype": ml_dtypes.float8_e5m2},
        TypeError,
        "dtype .*float8_e5m2",
    ),
    "dtype unknown": (ALL, {"dtype": "float31"}, TypeError, "float31"),
    "workers zero": (ALL, {"workers": 0}, ValueError, "workers must not be 0"),
    "workers too far back": (ALL, {"workers": -(10**6)}, ValueError, "workers is -1000000, need"),
    "workers not whole": (ALL, {"workers": 2.0}, TypeError, "workers must be an integer.*float"),
    "out a list": (ALL, {"out": [0.0] * 6}, TypeError, "out .*ndarray.*list"),
    "out a number": (ALL, {"out": 0.0}, TypeError, "out .*ndarray.*float"),
    "out of another dtype": (
        MAPS,
        {"x": X.astype(F), "out": np.zeros((2, 3))},
        TypeError,
        "out has dtype float64, need float32",
    ),
    "out of integers": (MAPS, {"out": np.zeros((2, 3), int)}, TypeError, "out has dtype int64"),
    "out of another dtype than asked for": (
        MAPS,
        {"dtype": F, "out": np.zeros((2, 3))},
        TypeError,
        "out has dtype float64, need float32",
    ),
    "out of another shape": (
        MAPS,
        {"out": np.zeros((3, 2))},
        ValueError,
        r"out has shape \(3, 2\), need \(2, 3\)",
    ),
    "out that would broadcast": (MAPS, {"out": np.zeros((1, 2, 3))}, ValueError, "out has shape"),
    "out read-only": (MAPS, {"out": read_only(np.zeros((2, 3)))}, ValueError, "out .*read-only"),
    "out broadcast": (
        MAPS,
        {"out": np.broadcast_to(np.zeros(3), (2, 3))},
        ValueError,
        "out .*read-only",
    ),
    "out masked": (MAPS, {"out": np.ma.zeros((2, 3))}, TypeError, "out"),
    "out a matrix": (MAPS, {"out": np.zeros((2, 3)).view(np.matrix)}, TypeError, "out"),
    "out for all, not for one": (REDUCTION, {"out": np.zeros(2)}, ValueError, r"\(2,\), need \(\)"),
    "out without the kept axes": (
        REDUCTION,
        {"axis": 1, "keepdims": True, "out": np.zeros(2)},
        ValueError,
        r"out has shape \(2,\), need \(2, 1\)",
    ),
    "out with the reduced axis": (
        REDUCTION,
        {"axis": 1, "out": np.zeros((2, 1))},
        ValueError,
        r"out has shape \(2, 1\), need \(2,\)",
    ),
    "out of logsumexp, of another dtype": (
        REDUCTION,
        {"axis": 1, "out": np.zeros(2, F)},
        TypeError,
        "out has dtype float32, need float64",
    ),
    "out of logsumexp, read-only": (
        REDUCTION,
        {"axis": 1, "out": read_only(np.zeros(2))},
        ValueError,
        "out .*read-only",
    ),
    "b of another shape": (REDUCTION, {"b": np.ones((2, 2))}, ValueError, r"b .*\(2, 2\)"),
    "b of objects": (REDUCTION, {"b": X.astype(object)}, TypeError, "b has dtype object"),
    "b of strings": (REDUCTION, {"b": X.astype(str)}, TypeError, "b has dtype"),
    "b masked": (REDUCTION, {"b": np.ma.array(X)}, TypeError, "b .*MaskedArray"),
}

CASES = [(function, case) for case, (functions, *_) in ERRORS.items() for function in functions]


@pytest.mark.parametrize(("function", "case"), CASES)
def test_error(api, function, case):
    _, options, exception, message = ERRORS[case]
    options = dict(options)
    x = options.pop("x", X)
    before = {name: freeze(a) for name, a in {"x": x, **options}.items()}
    message = message.replace("LOGITS", "a" if function == "logsumexp" else "x")
    with pytest.raises(exception, match=message) as caught:
        getattr(api, function)(x, **options)
    assert caught.value.__cause__ is None
    assert {name: freeze(a) for name, a in {"x": x, **options}.items()} == before


def freeze(a):
    return a.tobytes() if isinstance(a, np.ndarray) else repr(a)


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize(
    "wrong",
    [
        {"axis": 5},
        {"where": np.ones((9, 9), bool)},
        {"dtype": int},
        {"temperature": [[1.0], [np.nan]], "axis": 1},
    ],
    ids=str,
)
def test_a_failed_call_in_place_changes_nothing(api, function, wrong):
    """Whichever argument is wrong is found before anything is written."""
    if function == "logsumexp":
        wrong = {name: a for name, a in wrong.items() if name != "temperature"} | {"where": X}
    x = X.copy()
    out = x if function != "logsumexp" else x[:, 0]
    with pytest.raises((TypeError, ValueError)):
        getattr(api, function)(x, out=out, **wrong)
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("function", ALL)
def test_options_are_keyword_only(api, function):
    positional = (None, None) if function != "logsumexp" else (None, None, False, False, None)
    with pytest.raises(TypeError, match="positional"):
        getattr(api, function)(X, *positional)
    with pytest.raises(TypeError, match="unexpected keyword"):
        getattr(api, function)(X, casting="unsafe")


@pytest.mark.parametrize("function", ALL)
def test_an_error_of_the_conversion_is_passed_on(api, function):
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise ZeroDivisionError("no array today")

    with pytest.raises(ZeroDivisionError, match="no array today"):
        getattr(api, function)(Broken())
