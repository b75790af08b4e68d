"""Gradients through softmax and log-softmax, and what boosting asks for."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import logits
import oracle
from layouts import ARRANGEMENTS, LAYOUTS
from oracle import assert_accurate

DTYPES = ("float32", "float64")
FUNCTIONS = ("softmax", "log_softmax")
WRITEABLE = [name for name in LAYOUTS if name not in ("read-only", "broadcast")]


def exact_backward(function, grad, y):
    """What the formula gives for these very numbers, and the magnitude of its terms."""
    with mpmath.workdps(60):
        g, values = (oracle.to_mpf(a.astype(np.float64)) for a in (grad, y))
        if function == "softmax":
            inner = (g * values).sum(axis=-1, keepdims=True)
            return values * (g - inner), values * (abs(g) + abs(inner))
        of_total = np.frompyfunc(mpmath.exp, 1, 1)(values) * g.sum(axis=-1, keepdims=True)
        return g - of_total, abs(g) + abs(of_total)


def backward(api, function):
    return getattr(api, f"{function}_backward")


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "name", ["normal 0.01", "normal 1", "normal 10", "one dominates by 40", "denormal results"]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_within_the_bound(api, function, dtype, name):
    x = logits.make(name, (12, 40), dtype)
    y = getattr(api, function)(x, -1)
    grad = np.random.default_rng(0).normal(0.0, 3.0, x.shape).astype(dtype)
    exact, unit = exact_backward(function, grad, y)
    for arrangement in ARRANGEMENTS.values():
        got = backward(api, function)(
            arrangement.place(grad), arrangement.place(y), arrangement.axis
        )
        assert got.dtype == dtype
        assert_accurate(arrangement.rows(got), exact, unit.astype(np.float64))


@pytest.mark.parametrize("length", [3, 41])
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_that_cancel_keep_what_is_left_of_their_sum(api, dtype, length):
    """The sum has twice the precision: of more products, which cancel further, a little is lost."""
    rng = np.random.default_rng(length)
    grad, y = rng.uniform(0.1, 1.0, (2, 1, length)).astype(dtype)
    grad[0, 1::2] = -(grad[0, :-1:2] * y[0, :-1:2]) / y[0, 1::2]
    grad[0, -1] = 0
    exact, unit = exact_backward("softmax", grad, y)
    assert 0 < abs(exact[0, -1]) < 1e3 * np.finfo(dtype).eps
    for arrangement in ARRANGEMENTS.values():
        got = api.softmax_backward(arrangement.place(grad), arrangement.place(y), arrangement.axis)
        assert_accurate(arrangement.rows(got), exact, unit.astype(np.float64))


@pytest.mark.parametrize("lead", [10.0, 40.0, 300.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_of_a_dominating_class_keeps_its_digits(api, dtype, lead):
    """-1 + y is minus the sum of the others; it is 0 if it is computed as it stands."""
    log_y = api.log_softmax(np.array([0.0, -lead, -lead], dtype), -1)
    got = api.log_softmax_backward(np.array([-1, 0, 0], dtype), log_y)
    with mpmath.workdps(60):
        values = np.frompyfunc(mpmath.exp, 1, 1)(oracle.to_mpf(log_y.astype(np.float64)))
        wanted = np.array([mpmath.expm1(float(log_y[0])), values[1], values[2]])
    assert_accurate(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_leaves_the_digits_of_a_dominating_class(api, dtype):
    """Which lane of which vector either is in does not matter."""
    length = 67
    grad = np.random.default_rng(0).normal(size=length).astype(dtype)
    for place in range(length):
        log_y = np.full(length, -12.0, dtype)
        log_y[place] = -1e-6
        wanted = api.log_softmax_backward(grad, log_y)
        for at in set(range(0, length, 11)) - {place}:
            with_nan = log_y.copy()
            with_nan[at] = np.nan
            got = api.log_softmax_backward(grad, with_nan)
            assert np.isnan(got[at])
            np.testing.assert_array_equal(np.delete(got, at), np.delete(wanted, at))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("infinite", [[np.inf], [-np.inf], [np.inf, -np.inf], [np.inf, np.nan]])
@pytest.mark.parametrize("length", [2, 3, 8, 9, 70])
@pytest.mark.parametrize("dtype", [*DTYPES, "longdouble"])
def test_infinite_gradients_give_what_the_formula_gives(api, function, dtype, length, infinite):
    rng = np.random.default_rng(length)
    y, grad = rng.dirichlet(np.ones(length)), rng.normal(size=length)
    grad[: len(infinite)] = infinite
    grad = np.roll(grad, length // 2)
    with np.errstate(invalid="ignore"):
        if function == "softmax":
            wanted = y * (grad - (grad * y).sum())
        else:
            wanted, y = grad - y * grad.sum(), np.log(y)
    for arrangement in ARRANGEMENTS.values():
        got = backward(api, function)(
            arrangement.place(grad[np.newaxis].astype(dtype)),
            arrangement.place(y[np.newaxis].astype(dtype)),
            arrangement.axis,
        )
        np.testing.assert_array_equal(arrangement.rows(got)[0], wanted)


@given(seed=st.integers(0, 2**32 - 1))
def test_gradients_of_a_slice_sum_to_nothing(api, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2))
    x, grad = rng.normal(0.0, 5.0, (2, *shape))
    bound = 4 * np.finfo(float).eps * np.abs(grad).sum(axis=1)
    for function in FUNCTIONS:
        got = backward(api, function)(grad, getattr(api, function)(x, -1))
        assert np.all(np.abs(got.sum(axis=1)) <= bound)


def test_the_loss_and_its_parts_have_one_gradient(api):
    rng = np.random.default_rng(1)
    x, labels = rng.normal(0.0, 3.0, (6, 5)), rng.integers(5, size=6)
    _, wanted = api.cross_entropy(x, labels, return_grad=True)
    of_log = -np.eye(5)[labels] / 6
    log_y = api.log_softmax(x, -1)
    got = api.log_softmax_backward(of_log, log_y)
    np.testing.assert_allclose(got, wanted, rtol=1e-13)
    y = api.softmax(x, -1)
    np.testing.assert_allclose(api.softmax_backward(of_log / y, y), wanted, rtol=0, atol=1e-15)
    grad, _ = api.softmax_grad_hess(x, labels)
    np.testing.assert_allclose(grad / 6, wanted, rtol=1e-14)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_gradient_is_that_of_the_exact_function(api, function):
    """By central differences with 50 digits, of the function along a direction."""
    rng = np.random.default_rng(2)
    x, grad = rng.normal(0.0, 2.0, (2, 5))
    with mpmath.workdps(50):
        step = mpmath.mpf("1e-12")
        wanted = []
        for i in range(5):
            ends = []
            for sign in (1, -1):
                values = oracle.to_mpf(x)
                values[i] += sign * step
                powers = [mpmath.exp(value) for value in values]
                y = [power / mpmath.fsum(powers) for power in powers]
                y = y if function == "softmax" else [mpmath.log(value) for value in y]
                ends.append(mpmath.fsum(g * value for g, value in zip(grad, y, strict=True)))
            wanted.append(float((ends[0] - ends[1]) / (2 * step)))
    got = backward(api, function)(grad, getattr(api, function)(x, -1))
    np.testing.assert_allclose(got, wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("of_out", WRITEABLE)
@pytest.mark.parametrize("of_x", LAYOUTS)
def test_any_layout_into_any_other(api, function, of_x, of_out):
    rng = np.random.default_rng(3)
    grad, y = (LAYOUTS[of_x](a.astype(np.float32)) for a in rng.uniform(0.1, 1.0, (2, 3, 4, 5)))
    native = np.array(grad, np.float32), np.array(y, np.float32)
    for axis in (0, 1, 2, (0, 2), None):
        out = LAYOUTS[of_out](np.zeros(y.shape, np.float32))
        assert backward(api, function)(grad, y, axis, out=out) is out
        g, values = (a.astype(np.float64) for a in native)
        if function == "softmax":
            wanted = values * (g - (g * values).sum(axis, keepdims=True))
        else:
            wanted = g - np.exp(values) * g.sum(axis, keepdims=True)
        np.testing.assert_allclose(out, wanted, rtol=2e-7, atol=1e-7)
        np.testing.assert_array_equal(y, native[1])
        np.testing.assert_array_equal(grad, native[0])


OVERLAPS = {
    "the gradient itself": lambda a: (a[0], a[1], a[0]),
    "the softmax itself": lambda a: (a[0], a[1], a[1]),
    "the softmax, the gradient being the softmax too": lambda a: (a[1], a[1], a[1]),
    "one row further in the gradient": lambda a: (a[0, :-1], a[1, :-1], a[0, 1:]),
    "one column back in the softmax": lambda a: (a[0, :, 1:], a[1, :, 1:], a[1, :, :-1]),
    "the gradient upside down": lambda a: (a[0], a[1], a[0, ::-1]),
    "the softmax transposed": lambda a: (a[0], a[1], a[1].T),
    "half of both": lambda a: (
        a[0],
        a[1],
        a.reshape(-1)[a[0].size // 2 :][: a[0].size].reshape(a[0].shape),
    ),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("size", [6, 300])  # the NumPy kernels read 32 768 elements at a time
@pytest.mark.parametrize("dtype", DTYPES)
def test_out_may_overlap_the_inputs_in_any_way(api, function, dtype, size, overlap):
    memory = np.random.default_rng(4).uniform(0.1, 1.0, (2, size, size)).astype(dtype)
    for axis in (0, 1):
        grad, y, out = OVERLAPS[overlap](memory.copy())
        # Laid out alike, for sums to be made in the same order.
        wanted = backward(api, function)(grad.copy(), y.copy(), axis, out=np.empty_like(out))
        assert backward(api, function)(grad, y, axis, out=out) is out
        np.testing.assert_array_equal(out, wanted)


DTYPES_OF_BOTH = [
    ("float16", "float16", "float16"),
    ("bfloat16", "bfloat16", "bfloat16"),
    ("bfloat16", "float16", "float32"),
    ("float32", "float16", "float32"),
    ("float64", "float32", "float64"),
    ("int8", "float32", "float64"),
    ("longdouble", "float64", "longdouble"),
]


@pytest.mark.parametrize(("of_grad", "of_y", "of_result"), DTYPES_OF_BOTH)
def test_the_result_has_the_common_dtype(api, of_grad, of_y, of_result):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    of_grad, of_y, of_result = (
        np.dtype(getattr(ml_dtypes, name, name)) for name in (of_grad, of_y, of_result)
    )
    grad, y = np.array([3, 1, 0]).astype(of_grad), np.array([0.5, 0.25, 0.25]).astype(of_y)
    got = api.softmax_backward(grad, y)
    assert got.dtype == of_result
    np.testing.assert_array_equal(got.astype(float), [0.625, -0.1875, -0.4375])
    got = api.log_softmax_backward(grad, np.zeros(3).astype(of_y))
    assert got.dtype == of_result
    np.testing.assert_array_equal(got.astype(float), [-1, -3, -4])


def test_numbers_and_empty_slices(api):
    assert api.softmax_backward(2.0, 1.0, None) == 0
    assert type(api.softmax_backward(np.float32(2), np.float32(1), None)) is np.float32
    for function in FUNCTIONS:
        for shape in ((0, 3), (3, 0), (0,)):
            assert backward(api, function)(np.zeros(shape), np.zeros(shape)).shape == shape


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("factor", [None, 2.0, 1.5])
@pytest.mark.parametrize("name", ["normal 1", "normal 10", "one dominates by 40"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_grad_hess_within_the_bound(api, dtype, name, factor, weighted):
    x = logits.make(name, (30, 6), dtype)
    rng = np.random.default_rng(5)
    labels = rng.integers(6, size=30)
    weight = rng.uniform(0.1, 10.0, 30) if weighted else None
    with mpmath.workdps(50):
        values = oracle.by_mpmath(x).softmax
        of_sample = oracle.to_mpf(np.ones(30) if weight is None else weight)[:, np.newaxis]
        wanted = of_sample * (values - np.eye(6, dtype=int)[labels])
        wanted_second = of_sample * values * (1 - values) * (factor or 1)
    for order in "CF":
        grad, hess = api.softmax_grad_hess(
            np.asarray(x, order=order), labels, weight, factor=factor
        )
        assert grad.dtype == hess.dtype == dtype
        assert_accurate(grad, wanted)
        assert_accurate(hess, wanted_second)


def test_grad_hess_of_nothing(api):
    for shape in ((0, 3), (0, 0)):
        grad, hess = api.softmax_grad_hess(np.zeros(shape), np.zeros(0, int))
        assert grad.shape == hess.shape == shape
