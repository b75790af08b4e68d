"""Log-sum-exp with weights, and of complex numbers: log sum b exp(a)."""

import mpmath
import numpy as np
import pytest
import scipy.special

import oracle
from fastsoftmax import _weighted

INF, NAN = np.inf, np.nan
HUGE = 1e4  # its exponential overflows

# a, b, and the logarithm of the sum's magnitude and its sign.
CASES = {
    "weights of one": ([0.0, 0.0], [1.0, 1.0], np.log(2), 1),
    "a difference": ([1.0, 2.0], [-1.0, 1.0], np.log(np.e**2 - np.e), 1),
    "a negative sum": ([1.0, 2.0], [1.0, -1.0], np.log(np.e**2 - np.e), -1),
    "a sum of zero": ([1.0, 1.0], [1.0, -1.0], -INF, 0),
    "a sum of zero of three": ([3.0, 3.0, 3.0], [1.0, 1.0, -2.0], -INF, 0),
    "large exponents": ([HUGE, HUGE], [1.5, 0.5], HUGE + np.log(2), 1),
    "large exponents of both signs": ([HUGE, HUGE], [0.5, -1.5], HUGE, -1),
    "large weights": ([-HUGE, -HUGE], [1e300, 1e300], np.log(2e300) - HUGE, 1),
    "the largest weights": ([-10.0, -10.0], [1e308, 1e308], 2 * np.log(1e154) + np.log(2) - 10, 1),
    "opposite largest weights": ([0.0, 0.0], [1.5e308, -1e308], np.log(5e307), 1),
    "a tiny weight beside a small term": (
        [0.0, -200.0],
        [1e-80, 1e10],
        np.log(1e-80 + 1e10 * np.exp(-200)),
        1,
    ),
    "a tiny weight of the largest": ([-800.0, 0.0], [1e308, 1e-300], np.log(1e308) - 800, 1),
    "the smallest weights": ([9e3, 9e3], [5e-324, 5e-324], 9e3 - 1073 * np.log(2), 1),
    "the largest weighs negatively": (
        [3.0, 0.0, 3.5],
        [2.0, 3.0, -0.5],
        np.log(2 * np.e**3 + 3 - 0.5 * np.e**3.5),
        1,
    ),
    "weight zero of the largest": ([1.0, HUGE], [1.0, 0.0], 1.0, 1),
    "weight zero of inf": ([1.0, INF], [1.0, 0.0], 1.0, 1),
    "weight zero of nan": ([1.0, NAN], [1.0, 0.0], 1.0, 1),
    "weight zero of everything": ([1.0, HUGE, INF, NAN], [0.0, 0.0, -0.0, 0.0], -INF, 0),
    "inf": ([INF, 1.0], [2.0, 1.0], INF, 1),
    "inf with a negative weight": ([INF, 1.0], [-2.0, 1.0], INF, -1),
    "infs of both signs": ([INF, INF], [2.0, -1.0], NAN, NAN),
    "-inf": ([-INF, 1.0], [2.0, 1.0], 1.0, 1),
    "-inf alone": ([-INF, -INF, -INF], [2.0, 1.0, 3.0], -INF, 0),
    "-inf alone with negative weights": ([-INF, -INF], [-2.0, -1.0], -INF, 0),
    "-inf alone with an infinite weight": ([-INF, -INF], [INF, 1.0], NAN, NAN),
    "an infinite weight far below": ([0.0, HUGE], [INF, 1.0], INF, 1),
    "a negative infinite weight far below": ([0.0, HUGE], [-INF, 1.0], INF, -1),
    "nan": ([NAN, 1.0], [2.0, 1.0], NAN, NAN),
    "a weight of nan": ([0.0, 1.0], [NAN, 1.0], NAN, NAN),
    "a small rest": ([0.0, -40.0], [1.0, 2.0], 8.496708510583178e-18, 1),
    "a small negative rest": ([0.0, -40.0], [1.0, -2.0], -8.496708510583178e-18, 1),
    "nothing": ([], [], -INF, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_case(api, case):
    a, b, log, sign = CASES[case]
    with np.errstate(all="raise"):
        got = api.logsumexp(a, b=b, return_sign=True)
        alone = api.logsumexp(a, b=b)
    np.testing.assert_allclose(got, (log, sign), rtol=1e-14)
    np.testing.assert_array_equal(alone, NAN if sign == -1 else got[0])


def test_weights_against_mpmath(api):
    """To the error that the cancellation among the terms lets one expect."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.normal(0.0, 10.0, 30), rng.normal(0.0, 3.0, 30)
        with mpmath.workdps(50):
            terms = [mpmath.mpf(w) * mpmath.exp(x) for x, w in zip(a, b, strict=True)]
            total, size = mpmath.fsum(terms), mpmath.fsum(map(abs, terms))
            wanted, condition = float(mpmath.log(abs(total))), float(size / abs(total))
        got, sign = api.logsumexp(a, b=b, return_sign=True)
        assert sign == np.sign(float(total))
        assert abs(got - wanted) <= 4 * np.finfo(float).eps * (condition + np.abs(a).max())


def exact_weighted(a, b):
    """log(sum(b exp(a))) over the last axis of two matrices, correctly rounded to long double."""
    with mpmath.workdps(60):
        rows = [
            mpmath.log(mpmath.fsum(mpmath.mpf(float(w)) * mpmath.exp(float(x)) for x, w in row))
            for row in (zip(*pair, strict=True) for pair in zip(a, b, strict=True))
        ]
        heads = [np.longdouble(float(value)) for value in rows]
        return np.array([h + float(v - float(h)) for h, v in zip(heads, rows, strict=True)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 33, 100, 1001])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_positive_weights_are_as_accurate_as_none(api, dtype, length, scale):
    rng = np.random.default_rng(length)
    a = (scale * rng.standard_normal((4, length))).astype(dtype)
    b = rng.uniform(0.25, 4.0, (4, length)).astype(dtype)
    a[0] = a[0, 0]
    b[1, 1:] = 0
    wanted = exact_weighted(a, b)
    unit = np.maximum(oracle.logsumexp_unit(a, wanted), 1)  # and log(b) may cancel, too
    oracle.assert_accurate(api.logsumexp(a, 1, b), wanted, unit)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weight", [1, -1])
def test_others_than_the_largest_keep_their_digits(api, dtype, weight):
    """log1p(2 exp(-40)), in rows whose largest element is anywhere."""
    for length in (2, 9, 40):
        a, b = np.full((2, length, length), -200, dtype)
        b[...] = weight
        for i in range(length):
            a[i, i], a[i, i - 1], b[i, i], b[i, i - 1] = 0, -40, weight, 2
        got, sign = api.logsumexp(a, 1, b, return_sign=True)
        oracle.assert_accurate(got, np.full(length, weight * np.longdouble(8.496708510583178e-18)))
        assert set(sign.tolist()) == {weight}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1, 2, (0, 2), None])
def test_weights_along_any_axis(api, dtype, axis):
    rng = np.random.default_rng(0)
    a = rng.normal(0, 3, (5, 30, 19)).astype(dtype)
    for b in (rng.uniform(0.5, 2, a.shape), rng.uniform(0.5, 2, (30, 1)), rng.uniform(0.5, 2, 19)):
        for arranged in (a, a[::-1], a.T.copy().T, np.repeat(a, 2, -1)[..., ::2]):
            with np.errstate(all="raise"):
                got = api.logsumexp(arranged, axis, b.astype(dtype))
            terms = np.broadcast_to(b.astype(dtype), a.shape) * np.exp(arranged.astype(np.float64))
            wanted = np.log(terms.sum(axis))
            tolerance = 4 * np.finfo(dtype).eps
            np.testing.assert_allclose(got, wanted, tolerance, tolerance)


@pytest.mark.parametrize("shape", [(50, 4), (3, 100)])
def test_what_cancels_in_float32_is_that_of_float64(api, shape):
    """Rounded once, though hardly a digit would be left in float32."""
    rng = np.random.default_rng(0)
    a = (1 + 1e-4 * rng.random(shape)).astype(np.float32)
    b = np.tile([1, -1], (shape[0], shape[1] // 2)).astype(np.float32)
    b[0] = 1
    got = api.logsumexp(a, 1, b, return_sign=True)
    wanted = api.logsumexp(a.astype(np.float64), 1, b.astype(np.float64), return_sign=True)
    np.testing.assert_array_equal(got[1][1:], wanted[1][1:])
    oracle.assert_accurate(got[0][1:], wanted[0][1:], bound=0.51)


def test_slices_that_a_kernel_leaves_stand_beside_others(api):
    """Those are what the slice alone gives, and all others as well."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 3, (40, 12)), rng.uniform(0.5, 2, (40, 12))
    a[3, 4], a[5, 6], a[7], b[9, 0], b[11, 5], b[13, 2], b[15] = INF, NAN, -INF, NAN, INF, 1e300, 0
    b[17:20] *= -1
    for x, weights, axis in ((a, b, 1), (a.T.copy(), b.T.copy(), 0), (a[:, None], b[:, None], 2)):
        got, sign = api.logsumexp(x, axis, weights, return_sign=True)
        for i, (row, its) in enumerate(zip(a, b, strict=True)):
            alone = api.logsumexp(row, b=its, return_sign=True)
            np.testing.assert_array_equal((got.ravel()[i], sign.ravel()[i]), alone)


def test_kernels_leave_only_what_they_have_to(kernels):
    """Every slice of NumPy's; of compiled ones those with infinities, NaN or an extreme weight.

    And those whose sum is nearly nothing.
    """
    a, b = np.zeros((14, 4, 1)), np.ones((14, 4, 1))
    a[1, 2], a[2, 2], b[3, 2], b[4, 2], b[5, 2], b[6] = INF, NAN, INF, NAN, 2.0**401, 2.0**-401
    b[7] = [[1], [-1], [2], [-2]]
    a[8, 1:], b[8, 0] = -800, 2.0**-90  # next to which the others may matter
    a[9, 2], b[9, 2] = NAN, 0  # which counts for nothing
    a[10], b[11] = -INF, 0
    b[12, :3] = 2.0**-90
    a[13, 1:], b[13, 0] = -20, 2.0**-90
    log_sum, sign = np.empty((14, 1)), np.empty((14, 1), np.intp)
    kernels.weighted_logsumexp(a, b, log_sum, sign)
    is_left = sign[:, 0] == _weighted.UNKNOWN_SIGN
    assert is_left.tolist() == [kernels.name == "numpy" or 1 <= i <= 8 for i in range(14)]


@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [
        ((4, 1, 2, 1), (3, 1, 5)),
        ((3,), (2, 1)),
        ((2, 3), (3,)),
        ((2, 3), ()),
        ((), (2, 3)),
        ((2, 1), (1, 0)),
    ],
)
def test_a_and_b_are_broadcast_together(api, of_a, of_b):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.0, 2.0, of_a), rng.uniform(0.5, 2.0, of_b)
    terms = b * np.exp(a)
    for axis in (None, -1, *([0, (0, 1)] if terms.ndim > 1 else [])):
        for keepdims in (False, True):
            with np.errstate(divide="ignore"):
                wanted = np.log(terms.sum(axis, keepdims=keepdims))
            got = api.logsumexp(a, axis, b, keepdims)
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=1e-13, atol=1e-15)


DTYPES = ("float16", "float32", "float64", "longdouble", "int8", "int64", "complex64", "complex128")


@pytest.mark.parametrize("of_a", DTYPES)
@pytest.mark.parametrize("of_b", DTYPES)
def test_a_and_b_are_promoted_together(api, of_a, of_b):
    dtype = np.result_type(of_a, of_b)
    dtype = dtype if dtype.kind in "fc" else np.dtype(float)
    got = api.logsumexp(np.array([2, 1], of_a), b=np.array([1, -1], of_b))
    assert got.dtype == dtype
    tolerance = 4 * float(np.finfo(dtype).eps) + 1e-15
    np.testing.assert_allclose(got, np.log(np.e**2 - np.e), tolerance)


@pytest.mark.parametrize("number", [2, 2.0, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_number_as_weight_does_not_affect_the_dtype(api, dtype, number):
    got = api.logsumexp(np.array([1, 1], dtype), b=number)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, 1 + np.log(2 * number), float(np.finfo(dtype).eps))


@pytest.mark.parametrize("weight", [1e39, 1e-50])
def test_a_number_may_be_more_than_the_dtype_holds(api, weight):
    got = api.logsumexp(np.array([0, 1], np.float32), b=weight)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.log(1 + np.e) + np.log(weight), 1e-7)


def test_masked_elements_weigh_nothing(api):
    a = np.array([[1.0, NAN, 2.0], [INF, 3.0, 4.0]])
    b = np.array([[1.0, 2.0, NAN], [-1.0, 2.0, 3.0]])
    where = np.array([[True, False, False], [False, True, True]])
    got, sign = api.logsumexp(a, 1, b, return_sign=True, where=where)
    np.testing.assert_allclose(got, [1.0, np.log(2 * np.e**3 + 3 * np.e**4)], rtol=1e-15)
    assert sign.tolist() == [1, 1]
    got, sign = api.logsumexp(a, 1, b, return_sign=True, where=False)
    assert got.tolist() == [-INF, -INF]
    assert sign.tolist() == [0, 0]
    got = api.logsumexp(a + 0.5j, 1, where=where)
    wanted = np.array([1.0, np.log(np.e**3 + np.e**4)]) + 0.5j
    np.testing.assert_allclose(got, wanted, rtol=1e-15)


def test_the_imaginary_part_is_an_angle(api):
    rng = np.random.default_rng(0)
    a = rng.uniform(1, 40, (10, 100)) + 1j * rng.uniform(1, 40, (10, 100))
    total = np.exp(a).sum(axis=1)
    got = api.logsumexp(a, axis=1)
    assert np.all(np.abs(got.imag) <= np.pi)
    np.testing.assert_allclose(got, np.log(total), rtol=1e-12)
    log, phase = api.logsumexp(a, axis=1, return_sign=True)
    assert log.dtype == np.float64
    np.testing.assert_allclose(log, np.log(np.abs(total)), rtol=1e-12)
    np.testing.assert_allclose(phase, total / np.abs(total), rtol=1e-12)


def test_a_small_imaginary_part_keeps_its_digits(api):
    got = api.logsumexp([0.0, 2.0**-55 * 1j])
    np.testing.assert_allclose(got.real, np.log(2), rtol=1e-15)
    np.testing.assert_allclose(got.imag, 2.0**-56, rtol=1e-15)


def test_a_phase_as_weight(api):
    """exp(a + i phi) is exp(a) with the weight exp(i phi)."""
    a, phi = np.array([1.0, 2.0, 3.0]), np.array([0.1, -0.5, 2.0])
    weighted = api.logsumexp(a, b=np.exp(1j * phi))
    np.testing.assert_allclose(weighted, scipy.special.logsumexp(a + 1j * phi), rtol=1e-14)


def test_one_weight_for_the_last_axis_stands_for_all_places_of_another(api):
    x = np.random.default_rng(0).normal(size=(3, 4, 1))
    wanted = api.logsumexp(x, 1) + np.log(3.0)
    np.testing.assert_allclose(api.logsumexp(x, 1, b=np.array([3.0])), wanted, rtol=1e-15)
