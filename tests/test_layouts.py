"""Shapes, axes and memory layouts of what goes in, and of what comes out."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

import oracle
import strategies
from layouts import LAYOUTS
from oracle import assert_accurate

MAPS = ("softmax", "log_softmax")
REAL = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.longdouble]


@given(x=strategies.arrays(strategies.REAL + strategies.INTEGER + strategies.COMPLEX))
def test_the_result_lies_in_memory_as_the_input_does(api, x):
    dtype = np.dtype(np.float64) if x.dtype.kind in "biu" else x.dtype.newbyteorder("=")
    with np.errstate(all="ignore"):
        for function in MAPS:
            for axis in (None, *range(x.ndim)):
                got = getattr(api, function)(x, axis)
                assert got.dtype == dtype
                if x.ndim:
                    assert type(got) is np.ndarray
                    assert got.strides == np.empty_like(x, dtype).strides
                    assert got.flags.writeable
                    assert not np.may_share_memory(got, x)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "broadcast"])
def test_sums_lie_in_memory_as_the_slices_do(api, layout, weighted):
    x = LAYOUTS[layout](np.random.default_rng(0).normal(0.0, 5.0, (4, 5, 6)))
    weights = np.ones_like(x) if weighted else None
    for axis in (0, 1, 2, (0, 2), None):
        for keepdims in (False, True):
            got, sign = api.logsumexp(x, axis, weights, keepdims, return_sign=True)
            alone = api.logsumexp(x, axis, weights, keepdims)
            wanted = np.squeeze(np.max(x, axis)).strides
            for result in (got, sign, alone):
                assert np.squeeze(result).strides == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_several_axes_are_reduced_as_if_they_were_one(api, dtype, layout):
    x = LAYOUTS[layout](np.random.default_rng(0).normal(0.0, 5.0, (4, 5, 6)).astype(dtype))
    for axis in ((0, 1), (1, 0), (0, 2), (-1, 1), (-3, -1), (0, 1, 2), None):
        reduced = sorted(a % 3 for a in axis) if axis else [0, 1, 2]
        kept = [a for a in range(3) if a not in reduced]

        def merged(a, order=(*kept, *reduced), shape=tuple(x.shape[a] for a in kept)):
            return a.transpose(order).reshape(*shape, -1)

        rows = merged(x.astype(dtype))
        exact = oracle.exact(rows)
        for function in MAPS:
            assert_accurate(merged(getattr(api, function)(x, axis)), getattr(exact, function))
        unit = oracle.logsumexp_unit(rows, exact.logsumexp)
        for keepdims in (False, True):
            got = api.logsumexp(x, axis, keepdims=keepdims)
            assert got.shape == np.sum(x, axis, keepdims=keepdims).shape
            assert_accurate(got.reshape(exact.logsumexp.shape), exact.logsumexp, unit)


def test_swapped_bytes_of_bfloat16(api):
    x = np.array([1, 2], ml_dtypes.bfloat16)
    swapped = x.byteswap().view(x.dtype.newbyteorder())
    for function in (*MAPS, "logsumexp"):
        wanted = getattr(api, function)(x)
        got = getattr(api, function)(swapped)
        assert got.dtype == x.dtype
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, wanted)
    out = np.empty_like(x)
    assert api.softmax(swapped, out=out) is out
    np.testing.assert_array_equal(out, api.softmax(x))


def test_many_dimensions(api):
    x = np.random.default_rng(0).normal(0.0, 5.0, (2,) * 12)
    for axis in (0, 5, 11, (0, 11), (3, 4, 5), tuple(range(0, 12, 2))):
        total = np.exp(api.log_softmax(x, axis)).sum(axis)
        np.testing.assert_allclose(total, np.ones(total.shape), 1e-13)
    assert api.softmax(np.zeros((1,) * 64), 63).shape == (1,) * 64


@pytest.mark.parametrize("dtype", REAL, ids=lambda dtype: dtype.__name__)
def test_a_number_in_is_a_number_out(api, dtype):
    for number in (dtype(3), np.array(3, dtype)):
        for function, value in (("softmax", 1), ("log_softmax", 0), ("logsumexp", 3)):
            for axis in (None, ()):
                got = getattr(api, function)(number, axis)
                assert type(got) is np.dtype(dtype).type
                assert got == value
    assert type(api.logsumexp(np.zeros(3, dtype))) is np.dtype(dtype).type
    assert type(api.logsumexp(np.zeros(3, dtype), -1)) is np.dtype(dtype).type


class ArrayLike:
    def __array__(self, dtype=None, copy=None):
        return np.array([1.0, 2.0, 3.0], dtype)


@pytest.mark.parametrize(
    ("x", "array"),
    [
        ([1, 2, 3], np.array([1.0, 2.0, 3.0])),
        ((1.0, 2, 3), np.array([1.0, 2.0, 3.0])),
        ([[1, 2], [3, 5]], np.array([[1.0, 2.0], [3.0, 5.0]])),
        (range(3), np.arange(3.0)),
        ([], np.empty(0)),
        ([[], []], np.empty((2, 0))),
        ([True, False], np.array([1.0, 0.0])),
        ([np.float32(1), np.float32(2)], np.array([1, 2], np.float32)),
        (ArrayLike(), np.array([1.0, 2.0, 3.0])),
        (memoryview(np.array([1.0, 2.0])), np.array([1.0, 2.0])),
        (7, np.float64(7)),
        (True, np.float64(1)),
    ],
    ids=repr,
)
def test_what_an_array_can_be_made_of(api, x, array):
    for function in (*MAPS, "logsumexp"):
        got, wanted = (getattr(api, function)(a) for a in (x, array))
        assert got.dtype == array.dtype
        assert type(got) is type(wanted)
        np.testing.assert_array_equal(got, wanted)


class Subclass(np.ndarray):
    pass


def test_a_subclass_in_is_a_plain_array_out(api):
    x = np.array([[1.0, 2.0], [3.0, 5.0]])
    for function in (*MAPS, "logsumexp"):
        got = getattr(api, function)(x.view(Subclass), -1)
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, getattr(api, function)(x, -1))


@pytest.mark.parametrize("axis", [1, -1, np.int8(1), np.int64(-1), (1,), np.array(1)])
def test_ways_to_name_an_axis(api, axis):
    x = np.random.default_rng(0).normal(0.0, 5.0, (3, 4))
    for function in (*MAPS, "logsumexp"):
        got = getattr(api, function)(x, axis)
        np.testing.assert_array_equal(got, getattr(api, function)(x, axis=1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "complex64"])
def test_the_input_is_not_modified(api, dtype, layout):
    x = LAYOUTS[layout](np.random.default_rng(0).normal(0.0, 5.0, (3, 4, 5)).astype(dtype))
    before = x.copy()
    for function in (*MAPS, "logsumexp"):
        for axis in (None, 0, 1, 2, (0, 2)):
            getattr(api, function)(x, axis)
            np.testing.assert_array_equal(x, before)
    b = LAYOUTS[layout](np.ones((3, 4, 5)))
    api.logsumexp(x, 1, b)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(b, np.ones(b.shape))
