"""What softmax, log-softmax and log-sum-exp of infinities, NaN, nothing and masked elements are."""

from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest

import oracle
from layouts import ARRANGEMENTS
from oracle import assert_accurate

INF, NAN = np.inf, np.nan
DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.longdouble)
FUNCTIONS = ("softmax", "log_softmax", "logsumexp")


class Edge(NamedTuple):
    x: list[float]
    softmax: list[float]
    log_softmax: list[float]
    logsumexp: float
    where: list[bool] | None = None


EDGES = {
    "nothing": Edge([], [], [], -INF),
    "one element": Edge([7.0], [1.0], [0.0], 7.0),
    "one -inf": Edge([-INF], [NAN], [NAN], -INF),
    "one inf": Edge([INF], [NAN], [NAN], INF),
    "one nan": Edge([NAN], [NAN], [NAN], NAN),
    "a -inf": Edge([0.0, -INF], [1.0, 0.0], [0.0, -INF], 0.0),
    "all -inf": Edge([-INF, -INF, -INF], [NAN, NAN, NAN], [NAN, NAN, NAN], -INF),
    "an inf": Edge([INF, 1.0, -1e4], [NAN, NAN, NAN], [NAN, -INF, -INF], INF),
    "an inf and a -inf": Edge([-INF, INF, 1.0], [NAN, NAN, NAN], [-INF, NAN, -INF], INF),
    "two infs": Edge([INF, 2.0, INF], [NAN, NAN, NAN], [NAN, -INF, NAN], INF),
    "a nan": Edge([1.0, NAN, 2.0], [NAN, NAN, NAN], [NAN, NAN, NAN], NAN),
    "a nan and an inf": Edge([NAN, INF], [NAN, NAN], [NAN, NAN], NAN),
    "an inf and a nan": Edge([INF, 0.0, NAN], [NAN, NAN, NAN], [NAN, NAN, NAN], NAN),
    "a nan and a -inf": Edge([-INF, NAN], [NAN, NAN], [NAN, NAN], NAN),
    "zeros of both signs": Edge([0.0, -0.0], [0.5, 0.5], [-np.log(2)] * 2, np.log(2)),
    "far apart": Edge([1e4, 0.0, -1e4], [1.0, 0.0, 0.0], [0.0, -1e4, -2e4], 1e4),
    "masked nan": Edge([5.0, NAN], [1.0, 0.0], [0.0, -INF], 5.0, [True, False]),
    "masked inf": Edge([INF, 5.0], [0.0, 1.0], [-INF, 0.0], 5.0, [False, True]),
    "masked -inf": Edge([5.0, -INF], [1.0, 0.0], [0.0, -INF], 5.0, [True, False]),
    "masked largest": Edge([1e4, 5.0, 5.0], [0, 0.5, 0.5], [-INF, *[-np.log(2)] * 2],
                           5.0 + np.log(2), [False, True, True]),
    "all masked": Edge([1.0, 2.0], [0.0, 0.0], [-INF, -INF], -INF, [False, False]),
    "all masked, of nan and inf": Edge([NAN, INF], [0.0, 0.0], [-INF, -INF], -INF, [False, False]),
    "all masked but a -inf": Edge([-INF, 5.0], [NAN, 0.0], [NAN, -INF], -INF, [True, False]),
    "all masked but an inf": Edge([INF, 5.0], [NAN, 0.0], [NAN, -INF], INF, [True, False]),
    "all masked but a nan": Edge([NAN, 5.0], [NAN, 0.0], [NAN, -INF], NAN, [True, False]),
    "an inf beside a masked element": Edge(
        [INF, 5.0, 3.0], [NAN, NAN, 0.0], [NAN, -INF, -INF], INF, [True, True, False]
    ),
}  # fmt: skip


def quietly(call, *arguments, **options):
    """The result of a call that must not report a floating-point error, whatever it meets."""
    with np.errstate(all="raise"):
        return call(*arguments, **options)


def assert_close(got, wanted, dtype):
    tolerance = 4 * max(float(ml_dtypes.finfo(dtype).eps), np.finfo(np.float64).eps)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(np.float64), wanted, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("edge", EDGES)
def test_edge(api, edge, dtype):
    """Slices of each kind, between ordinary ones, along each kind of axis."""
    edge, n = EDGES[edge], len(EDGES[edge].x)
    rows, where = np.zeros((20, n)), np.ones((20, n), bool)
    rows[::3] = edge.x
    where[::3] = True if edge.where is None else edge.where
    of_zeros = {"softmax": 1 / max(n, 1), "log_softmax": -np.log(max(n, 1))}
    of_zeros["logsumexp"] = np.log(n) if n else -INF
    for arrangement in ARRANGEMENTS.values():
        x = arrangement.place(rows.astype(dtype))
        options = {} if edge.where is None else {"where": arrangement.place(where)}
        for function in FUNCTIONS:
            got = quietly(getattr(api, function), x, arrangement.axis, **options)
            got = got.reshape(-1, 1) if function == "logsumexp" else arrangement.rows(got)
            wanted = np.full(got.shape, of_zeros[function])
            wanted[::3] = getattr(edge, function)
            assert_close(got, wanted, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("edge", EDGES)
def test_edge_of_a_slice_on_its_own(api, edge, dtype):
    x, *wanted, where = EDGES[edge]
    options = {} if where is None else {"where": where}
    for function, value in zip(FUNCTIONS, wanted, strict=True):
        got = quietly(getattr(api, function), np.array(x, dtype), **options)
        assert_close(got, value, dtype)


def of_one_special(x: np.ndarray, special: float) -> dict[str, np.ndarray]:
    """The results of finite rows with one special element each."""
    nothing = np.full(x.shape, NAN)
    beside = np.where(x == special, NAN, -INF)
    return {
        "softmax": nothing,
        "log_softmax": nothing if np.isnan(special) else beside,
        "logsumexp": np.full(len(x), special),
    }


@pytest.mark.parametrize("special", [INF, NAN])
@pytest.mark.parametrize("length", [*range(2, 36), 63, 64, 65, 100])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_special_element_anywhere_in_a_slice(api, dtype, length, special):
    rows = np.random.default_rng(length).normal(0.0, 4.0, (length, length)).astype(dtype)
    np.fill_diagonal(rows, special)
    wanted = of_one_special(rows, special)
    for arrangement in ARRANGEMENTS.values():
        x = arrangement.place(rows)
        for function in ("softmax", "log_softmax"):
            got = quietly(getattr(api, function), x, arrangement.axis)
            np.testing.assert_array_equal(arrangement.rows(got), wanted[function])
        got = quietly(api.logsumexp, x, arrangement.axis)
        np.testing.assert_array_equal(got.reshape(-1), wanted["logsumexp"])
    for function in FUNCTIONS:
        got = [quietly(getattr(api, function), row) for row in rows]
        np.testing.assert_array_equal(got, wanted[function])


@pytest.mark.parametrize("length", [*range(1, 36), 63, 64, 65, 100])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_finite_element_anywhere_in_a_slice_of_minus_infinities(api, dtype, length):
    rows = np.full((length, length), -INF, dtype)
    np.fill_diagonal(rows, 3.0)
    for arrangement in ARRANGEMENTS.values():
        x = arrangement.place(rows)
        got = quietly(api.softmax, x, arrangement.axis)
        np.testing.assert_array_equal(arrangement.rows(got), np.eye(length))
        got = quietly(api.log_softmax, x, arrangement.axis)
        wanted = np.where(np.eye(length) == 1, 0.0, -INF)
        np.testing.assert_array_equal(arrangement.rows(got), wanted)
        got = quietly(api.logsumexp, x, arrangement.axis)
        np.testing.assert_array_equal(got.reshape(-1), np.full(length, 3.0))


@pytest.mark.parametrize("special", [INF, NAN, -INF])
@pytest.mark.parametrize("slices", [2, 3, 8, 9, 17, 33])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_special_slice_does_not_disturb_its_neighbours(api, dtype, slices, special):
    """Slices may share registers; they share nothing else."""
    rows = np.random.default_rng(slices).normal(0.0, 4.0, (slices, 12)).astype(dtype)
    exact = oracle.exact(rows)
    for spoilt in range(slices):
        others = np.arange(slices) != spoilt
        for arrangement in ARRANGEMENTS.values():
            x = rows.copy()
            x[spoilt] = special
            x = arrangement.place(x)
            for function in ("softmax", "log_softmax"):
                got = arrangement.rows(getattr(api, function)(x, arrangement.axis))
                assert_accurate(got[others], getattr(exact, function)[others])
                assert np.all(np.isnan(got[spoilt]))
            got = api.logsumexp(x, arrangement.axis).reshape(-1)
            np.testing.assert_allclose(got[others], exact.logsumexp[others].astype(float), 1e-5)
            np.testing.assert_equal(got[spoilt], special)


def put_nothing(x, where, at, other):
    pass


def put_inf(x, where, at, other):
    x[at] = INF


def put_inf_and_nan(x, where, at, other):
    x[at], x[other] = INF, NAN


def put_inf_and_masked_nan(x, where, at, other):
    x[at], x[other], where[other] = INF, NAN, False


def put_only_minus_inf(x, where, at, other):
    x[:] = -INF


def put_only_minus_inf_and_nan(x, where, at, other):
    x[:], x[at], x[other] = -INF, NAN, NAN


PUT = [
    put_inf,
    put_nothing,
    put_only_minus_inf_and_nan,
    put_inf_and_nan,
    put_only_minus_inf,
    put_inf_and_masked_nan,
]


def of_numpy(x, where):
    """The three functions of a slice in float64, by the formulas and by the README's table."""
    largest = x.max(where=where, initial=-INF)  # NaN if an element that takes part is
    lost = ~np.isfinite(largest)
    if lost:
        softmax = np.full(x.shape, NAN)
        log_sum = largest
        log_softmax = np.where(x == largest, NAN, -INF if largest == INF else NAN)
    else:
        terms = np.exp(x - largest, where=where, out=np.zeros_like(x))
        softmax = terms / terms.sum()
        log_sum = largest + np.log(terms.sum())
        log_softmax = x - log_sum
    return np.where(where, softmax, 0), np.where(where, log_softmax, -INF), log_sum


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [9, 70, 300])
@pytest.mark.parametrize("slices", [1, 3, 20, 37])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda d: d.__name__)
def test_infinities_and_nan_in_some_of_many_slices(api, dtype, slices, length, masked):
    rng = np.random.default_rng(length)
    x = rng.normal(0.0, 3.0, (slices, length)).astype(dtype)
    where = rng.random(x.shape) < 0.7 if masked else np.ones(x.shape, bool)
    for k in range(slices):
        at, other = rng.choice(length, 2, replace=False)
        where[k, [at, other]] = True
        PUT[k % (len(PUT) if masked else len(PUT) - 1)](x[k], where[k], at, other)
    wanted = [of_numpy(*one) for one in zip(x.astype(np.float64), where, strict=True)]
    tolerance = {"rtol": 2 * np.finfo(dtype).eps, "atol": 20 * np.finfo(dtype).eps}
    for arrangement in ARRANGEMENTS.values():
        options = {"axis": arrangement.axis}
        if masked:
            options["where"] = arrangement.place(where)
        placed = arrangement.place(x)
        for index, function in enumerate(("softmax", "log_softmax")):
            got = quietly(getattr(api, function), placed, **options)
            expected = [one[index] for one in wanted]
            np.testing.assert_allclose(arrangement.rows(got), expected, **tolerance)
        got = quietly(api.logsumexp, placed, **options)
        np.testing.assert_allclose(got.reshape(-1), [one[2] for one in wanted], **tolerance)


@pytest.mark.parametrize("finite", [None, 0, -1], ids=["none", "the first", "the last"])
@pytest.mark.parametrize("columns", [1, 5, 20, 49, 300])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda d: d.__name__)
def test_columns_of_which_at_most_one_has_a_finite_maximum(api, dtype, columns, finite):
    """The others have an inf, a NaN, or nothing but -inf."""
    x = np.full((2, 40, columns), -INF, dtype)
    x[:, 7, 0::3], x[:, 9, 1::3] = NAN, INF
    logsumexp = np.broadcast_to(np.resize([NAN, INF, -INF], columns), (2, columns)).copy()
    if finite is not None:
        x[:, :, finite] = np.linspace(-3, 3, 40)
        logsumexp[:, finite] = np.log(np.sum(np.exp(x[0, :, finite].astype(np.longdouble))))
    with np.errstate(invalid="ignore"):
        log_softmax = x - logsumexp[:, None, :]
    tolerance = 3 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(api.logsumexp(x, axis=1), logsumexp, rtol=tolerance)
    np.testing.assert_allclose(api.log_softmax(x, axis=1), log_softmax, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_the_largest_numbers_do_not_overflow(api, dtype):
    largest = np.array(ml_dtypes.finfo(dtype).max, dtype)
    apart, alike = np.array([largest, -largest]), np.array([largest, largest])
    assert quietly(api.softmax, apart).tolist() == [1.0, 0.0]
    assert quietly(api.log_softmax, apart).tolist() == [0.0, -INF]
    assert quietly(api.logsumexp, apart) == largest
    for x in (alike, -alike):
        assert quietly(api.softmax, x).tolist() == [0.5, 0.5]
        assert_close(quietly(api.log_softmax, x), [-np.log(2)] * 2, dtype)
        assert quietly(api.logsumexp, x) == x[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_underflows_through_the_denormals_to_zero(api, dtype):
    smallest = np.finfo(dtype).smallest_subnormal
    smallest_logit = np.log(smallest)
    x = np.array([0.0, np.log(3) + smallest_logit, np.log(0.4) + smallest_logit, -1e4], dtype)
    assert quietly(api.softmax, x).tolist() == [1.0, 3 * smallest, 0.0, 0.0]


def test_integers_are_converted_before_anything_is_subtracted(api):
    """Differences of unsigned and of narrow integers wrap around."""
    for dtype in (np.uint8, np.int8, np.uint64):
        x = np.array([0, 100], dtype)
        assert api.softmax(x)[0] == pytest.approx(np.exp(-100.0), rel=1e-14)
        assert api.log_softmax(x).tolist() == [-100.0, pytest.approx(-np.exp(-100.0))]
    x = np.array([-128, 127], np.int8)
    assert api.log_softmax(x)[0] == -255.0
    assert api.softmax([True, False]) == pytest.approx([np.e / (1 + np.e), 1 / (1 + np.e)])
