"""predict and top_k: which classes, in which order, with which softmax values."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import logits
import oracle
import strategies
from layouts import ARRANGEMENTS, LAYOUTS
from oracle import assert_accurate

DTYPES = ("float32", "float64")
REAL = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.longdouble]


@pytest.mark.parametrize("shape", [(6, 500), (60, 10)], ids=str)
@pytest.mark.parametrize(("name", "dtype"), logits.CASES)
def test_values_are_within_the_bound(api, name, dtype, shape):
    x = logits.make(name, shape, dtype)
    exact = oracle.exact(x)
    order = np.argsort(-x.astype(np.float64), axis=1, kind="stable")
    for arrangement in ARRANGEMENTS.values():
        placed = arrangement.place(x)
        index, confidence = api.predict(placed, arrangement.axis, return_confidence=True)
        np.testing.assert_array_equal(index, placed.argmax(arrangement.axis))
        assert confidence.dtype == dtype
        assert_accurate(confidence.reshape(-1), exact.softmax.max(axis=1))
        for k in (1, 3, shape[1]):
            for log in (False, True):
                values, indices = api.top_k(placed, k, arrangement.axis, log=log)
                assert values.dtype == dtype
                np.testing.assert_array_equal(arrangement.rows(indices), order[:, :k])
                of_all = exact.log_softmax if log else exact.softmax
                wanted = np.take_along_axis(of_all, order[:, :k], axis=1)
                assert_accurate(arrangement.rows(values), wanted)


@given(x=strategies.arrays(strategies.REAL + strategies.INTEGER))
def test_predict_is_argmax(api, x):
    for axis in (None, *range(-x.ndim, x.ndim)):
        length = x.size if axis is None else x.shape[axis]
        if length == 0:
            with pytest.raises(ValueError, match="logits has shape"):
                api.predict(x, axis)
            continue
        wanted = np.argmax(x, axis)
        index = api.predict(x, axis)
        np.testing.assert_array_equal(index, wanted)
        assert type(index) is type(wanted)
        assert index.dtype == np.intp
        again, confidence = api.predict(x, axis, return_confidence=True)
        np.testing.assert_array_equal(again, wanted)
        assert confidence.shape == wanted.shape


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_predict_of_every_short_length(api, dtype, rows):
    """With ties, zeros of both signs, infinities and NaN, wherever they are among other rows."""
    rng = np.random.default_rng(rows)
    values = np.array([0.0, -0.0, 1.0, 2.0, -np.inf, np.inf, np.nan], dtype)
    for length in range(1, 70):
        plain = rng.normal(0.0, 3.0, (rows, length)).astype(dtype)
        odd = rng.choice(values, (rows, length), p=[0.2, 0.2, 0.2, 0.2, 0.1, 0.05, 0.05])
        for x in (plain, odd, np.where(rng.random((rows, 1)) < 0.3, odd, plain)):
            wanted = np.argmax(x, -1)
            np.testing.assert_array_equal(api.predict(x), wanted)
            index, confidence = api.predict(x, return_confidence=True)
            np.testing.assert_array_equal(index, wanted)
            has_one = np.isfinite(x[np.arange(rows), wanted])  # the largest is, or NaN
            np.testing.assert_array_equal(np.isnan(confidence), ~has_one)
            exact = oracle.exact(x[has_one]).softmax
            assert_accurate(confidence[has_one], exact.max(axis=-1))


def test_large_integers_are_compared_as_they_are(api):
    x = np.array([2**60, 2**60 + 1])
    assert api.predict(x) == 1
    assert api.predict(x.astype(np.uint64) * 8) == 1


def ranked(row):
    """Indices in descending order, NaN first, equal ones in theirs."""
    return sorted(range(len(row)), key=lambda i: (-np.inf, 0) if np.isnan(row[i]) else (-row[i], 1))


@given(x=strategies.arrays((*strategies.REAL, "int8", "bool"), min_dims=1), data=st.data())
def test_the_order_of_top_k(api, x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    k = data.draw(st.integers(0, x.shape[axis]))
    values, indices = api.top_k(x, k, axis)
    assert (
        values.shape
        == indices.shape
        == tuple(k if i == axis % x.ndim else n for i, n in enumerate(x.shape))
    )
    assert indices.dtype == np.intp
    rows = np.moveaxis(x, axis, -1)
    got = np.moveaxis(indices, axis, -1)
    for place in np.ndindex(rows.shape[:-1]):
        assert got[place].tolist() == ranked(rows[place].astype(np.longdouble))[:k]
    if k:
        np.testing.assert_array_equal(got[..., 0], api.predict(x, axis))


def test_many_ties_at_the_threshold(api):
    rng = np.random.default_rng(0)
    x = rng.integers(3, size=(50, 40)).astype(np.float32)
    order = np.argsort(-x, axis=1, kind="stable")
    for k in range(41):
        np.testing.assert_array_equal(api.top_k(x, k)[1], order[:, :k])


@pytest.mark.parametrize("kind", ["distinct", "ties", "NaN"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_many(api, dtype, kind):
    """More than are gathered, and sorted, at a time."""
    rng = np.random.default_rng(3)
    x = rng.normal(0.0, 5.0, (2, 5000)).astype(dtype)
    if kind == "ties":
        x = rng.integers(3, size=x.shape)  # with -0 among the zeros
        x = np.copysign(x, rng.normal(size=x.shape)).astype(dtype)
    if kind == "NaN":
        x[rng.random(x.shape) < 0.1] = np.nan
    order = np.argsort(np.where(np.isnan(x), -np.inf, -x), axis=1, kind="stable")
    for k in (100, 1000, 4000, 5000):
        np.testing.assert_array_equal(api.top_k(x, k)[1], order[:, :k])


SLICES = {
    "NaN": ([0.0, np.nan, 2.0], [np.nan] * 3, [np.nan] * 3, [1, 2, 0]),
    "+inf": ([0.0, np.inf, 2.0], [np.nan] * 3, [np.nan, -np.inf, -np.inf], [1, 2, 0]),
    "-inf alone": ([-np.inf] * 3, [np.nan] * 3, [np.nan] * 3, [0, 1, 2]),
    "masked": ([-np.inf, 3.0, -np.inf], [1.0, 0.0, 0.0], [0.0, -np.inf, -np.inf], [1, 0, 2]),
}


@pytest.mark.parametrize("case", SLICES)
@pytest.mark.parametrize("dtype", REAL, ids=lambda dtype: dtype.__name__)
def test_special_slices(api, dtype, case):
    x, softmax, log_softmax, indices = SLICES[case]
    x = np.array(x).astype(dtype)
    for log, wanted in ((False, softmax), (True, log_softmax)):
        values, got = api.top_k(x, 3, log=log)
        assert got.tolist() == indices
        np.testing.assert_array_equal(values.astype(float), wanted)
    index, confidence = api.predict(x, return_confidence=True)
    assert index == indices[0]
    np.testing.assert_array_equal(float(confidence), softmax[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_any_layout(api, dtype, layout):
    x = LAYOUTS[layout]((np.random.default_rng(1).normal(0.0, 5.0, (4, 5, 6))).astype(dtype))
    before = x.copy()
    for axis in (0, 1, 2):
        exact = np.exp(np.asarray(x, np.longdouble))
        exact = exact / exact.sum(axis, keepdims=True)
        tolerance = 2 * np.finfo(dtype if dtype != "int8" else float).eps
        index, confidence = api.predict(x, axis, return_confidence=True)
        np.testing.assert_array_equal(index, x.argmax(axis))
        np.testing.assert_allclose(confidence.astype(np.longdouble), exact.max(axis), tolerance)
        values, indices = api.top_k(x, 3, axis)
        wanted = np.take_along_axis(exact, indices, axis)
        smallest = np.finfo(values.dtype).smallest_subnormal
        np.testing.assert_allclose(
            values.astype(np.longdouble), wanted, tolerance, atol=float(smallest)
        )
        order = np.argsort(-x.astype(float), axis, kind="stable")
        np.testing.assert_array_equal(indices, order.take(range(3), axis))
    np.testing.assert_array_equal(x, before)


def test_a_number_is_a_slice_of_one(api):
    assert api.predict(3.0) == 0
    index, confidence = api.predict(np.float32(3), None, return_confidence=True)
    assert (index, confidence) == (0, 1)
    assert type(confidence) is np.float32
    values, indices = api.top_k(3, 1)
    np.testing.assert_array_equal(values, [1.0])
    np.testing.assert_array_equal(indices, [0])
    values, indices = api.top_k([[1, 2], [4, 3]], 2, None)
    np.testing.assert_array_equal(indices, [2, 3])


@pytest.mark.parametrize(("name", "dtype"), logits.CASES)
def test_softmax_logsumexp_is_both(api, name, dtype):
    x = logits.make(name, (12, 50), dtype)
    exact = oracle.exact(x)
    unit = oracle.logsumexp_unit(x, exact.logsumexp)
    for arrangement in ARRANGEMENTS.values():
        placed = arrangement.place(x)
        values, log_sum = api.softmax_logsumexp(placed, arrangement.axis)
        assert_accurate(arrangement.rows(values), exact.softmax)
        assert_accurate(log_sum.reshape(-1), exact.logsumexp, unit)
        out = placed.copy()
        again, log_sum_again = api.softmax_logsumexp(out, arrangement.axis, out=out)
        assert again is out
        np.testing.assert_array_equal(out, values)
        np.testing.assert_array_equal(log_sum_again, log_sum)


@pytest.mark.parametrize("length", [1, 5, 16, 40, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_logsumexp_in_place_of_rows_without_a_finite_maximum(api, dtype, length):
    x = np.random.default_rng(0).normal(0.0, 3.0, (20, length)).astype(dtype)
    x[2, 0] = x[3, :] = x[4, -1] = np.inf
    x[5] = x[6] = -np.inf
    x[4, 0] = x[6, -1] = x[7, length // 2] = np.nan
    wanted = api.softmax(x, -1), api.logsumexp(x, -1)
    assert np.isinf(wanted[1][[2, 3, 5]]).all()
    for placed in (x.copy(), x[:, ::-1].copy()[:, ::-1], x.copy("F")):
        values, log_sum = api.softmax_logsumexp(placed, -1, out=placed)
        np.testing.assert_allclose(values, wanted[0], rtol=1e-5)
        np.testing.assert_allclose(log_sum, wanted[1], rtol=1e-5)


@given(x=strategies.arrays(strategies.REAL + strategies.INTEGER), data=st.data())
def test_softmax_logsumexp_has_the_shapes_and_special_values_of_both(api, x, data):
    axis = data.draw(strategies.axes(x.ndim))
    mask = data.draw(st.sampled_from([None, np.random.default_rng(0).random(x.shape) < 0.7]))
    values, log_sum = api.softmax_logsumexp(x, axis, where=mask)
    wanted = api.softmax(x, axis, where=mask), api.logsumexp(x, axis, where=mask)
    for got, of_one in zip((values, log_sum), wanted, strict=True):
        assert type(got) is type(of_one)
        assert got.dtype == of_one.dtype
        np.testing.assert_allclose(
            got, of_one, rtol=8 * float(np.finfo(of_one.dtype).eps), atol=1e-15
        )


def test_softmax_logsumexp_in_another_dtype(api):
    x = np.random.default_rng(2).normal(0.0, 5.0, (3, 4)).astype(np.float32)
    values, log_sum = api.softmax_logsumexp(x, dtype=np.float64)
    exact = oracle.exact(x.astype(np.float64))
    assert_accurate(values, exact.softmax)
    assert_accurate(log_sum, exact.logsumexp)
    values, log_sum = api.softmax_logsumexp(x, dtype=np.float16)
    assert values.dtype == log_sum.dtype == np.float16
