"""Cross-entropy and its gradient: exactness, and what labels, weights and reductions mean."""

import functools
import itertools
from functools import cache

import mpmath
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

import logits
import oracle
from layouts import ARRANGEMENTS, LAYOUTS
from oracle import assert_accurate

DTYPES = ("float32", "float64")
REDUCTIONS = ("mean", "sum", "none")


def one_hot(labels, classes):
    return np.eye(classes)[labels]


def parts(labels, classes, weight=None, smoothing=0.0):
    """The weighted and smoothed targets, as mpmath numbers."""
    with mpmath.workdps(50):
        target = oracle.to_mpf(labels if labels.ndim == 2 else one_hot(labels, classes))
        target = (1 - mpmath.mpf(smoothing)) * target + mpmath.mpf(smoothing) / classes
        return target if weight is None else target * oracle.to_mpf(weight.astype(np.float64))


def place(arrangement, labels):
    """Labels of rows, in the shape of the array without its axis."""
    return arrangement.place(labels[:, np.newaxis] * 1.0).squeeze(arrangement.axis).astype(int)


@pytest.mark.parametrize(("name", "dtype"), logits.CASES)
def test_within_the_bound(api, name, dtype):
    x = logits.make(name, (12, 9), dtype)
    labels = np.random.default_rng(0).integers(9, size=12)
    exact = oracle.exact_loss(x, parts(labels, 9))
    for arrangement in ARRANGEMENTS.values():
        loss_of = functools.partial(
            api.cross_entropy,
            arrangement.place(x),
            place(arrangement, labels),
            axis=arrangement.axis,
            reduction="none",
        )
        loss, grad = loss_of(return_grad=True)
        assert loss.dtype == grad.dtype == dtype
        assert_accurate(loss.reshape(-1), exact.loss)
        assert_accurate(loss_of().reshape(-1), exact.loss)
        assert_accurate(arrangement.rows(grad), exact.grad)


@cache
def weighted_case(dtype, weighted, smoothing, length):
    rng = np.random.default_rng(length)
    x = rng.normal(0.0, 5.0, (20, length)).astype(dtype)
    x[:5] *= 10
    labels = rng.integers(length, size=20)
    weight = np.exp(rng.normal(0.0, 2.0, length)) if weighted else None
    return x, labels, weight, oracle.exact_loss(x, parts(labels, length, weight, smoothing))


@pytest.mark.parametrize("length", [2, 3, 16, 17, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_and_smoothing_within_the_bound(api, dtype, weighted, smoothing, length):
    x, labels, weight, exact = weighted_case(dtype, weighted, smoothing, length)
    for arrangement in ARRANGEMENTS.values():
        loss_of = functools.partial(
            api.cross_entropy,
            arrangement.place(x),
            place(arrangement, labels),
            weight,
            axis=arrangement.axis,
            label_smoothing=smoothing,
            reduction="none",
        )
        loss, grad = loss_of(return_grad=True)
        assert_accurate(loss.reshape(-1), exact.loss)
        assert_accurate(loss_of().reshape(-1), exact.loss)
        assert_accurate(arrangement.rows(grad), exact.grad, exact.unit.astype(np.float64))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_within_the_bound(api, dtype, smoothing, weighted):
    rng = np.random.default_rng(3)
    x = rng.normal(0.0, 5.0, (30, 7)).astype(dtype)
    target = rng.dirichlet(np.full(7, 0.3), 30).astype(dtype)
    weight = np.exp(rng.normal(0.0, 2.0, 7)) if weighted else None
    exact = oracle.exact_loss(x, parts(target, 7, weight, smoothing))
    for arrangement in ARRANGEMENTS.values():
        loss_of = functools.partial(
            api.cross_entropy,
            arrangement.place(x),
            arrangement.place(target),
            weight,
            axis=arrangement.axis,
            label_smoothing=smoothing,
            reduction="none",
        )
        loss, grad = loss_of(return_grad=True)
        assert_accurate(loss.reshape(-1), exact.loss)
        assert_accurate(loss_of().reshape(-1), exact.loss)
        assert_accurate(arrangement.rows(grad), exact.grad, exact.unit.astype(np.float64))


@pytest.mark.parametrize("lead", [10, 40, 100, 300, 700])
@pytest.mark.parametrize("target", [0, [1.0, 0.0, 0.0], [1.0, 1e-40, 0.0]], ids=str)
def test_a_dominated_row_keeps_its_digits(api, lead, target):
    """Neither the loss nor any gradient is the difference of two numbers near to each other."""
    x = np.array([0.0, -lead, -lead - 1])
    part = one_hot(0, 3) if target == 0 else np.array(target)
    exact = oracle.exact_loss(x[np.newaxis], part[np.newaxis])
    loss, grad = api.cross_entropy(x, target, reduction="sum", return_grad=True)
    assert_accurate(np.array([loss]), exact.loss)
    assert_accurate(grad[np.newaxis], exact.grad, exact.unit.astype(np.float64))


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("lead", [0, 1, 5, 20])
@pytest.mark.parametrize("dtype", DTYPES)
def test_targets_that_are_all_but_certain(api, dtype, lead, largest):
    """The gradient at the class of most of the target has the parts of the others as its unit."""
    x = np.zeros((1, 40), dtype)
    x[0, largest] = lead
    target = np.full(x.shape, 1e-30, dtype)
    target[0, 0] = 1
    exact = oracle.exact_loss(x, parts(target, 40))
    loss, grad = api.cross_entropy(x, target, reduction="none", return_grad=True)
    assert_accurate(loss, exact.loss)
    assert_accurate(grad, exact.grad, exact.unit.astype(np.float64))


def test_the_loss_of_a_class_that_is_all_but_certain(api):
    assert api.cross_entropy([40.0, 0.0], 0) == pytest.approx(4.248354255291589e-18, rel=1e-15)
    loss, grad = api.cross_entropy(np.float32([40, 0]), 0, return_grad=True)
    assert loss == pytest.approx(4.2483543e-18, rel=1e-6)
    np.testing.assert_allclose(grad, [-4.2483543e-18, 4.2483543e-18], rtol=1e-6)
    assert not np.signbit(api.cross_entropy([1e4, 0.0], 0))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_and_means_within_the_bound(api, dtype, weighted, reduction):
    rng = np.random.default_rng(4)
    x = rng.normal(0.0, 5.0, (301, 5)).astype(dtype)
    labels = rng.integers(5, size=301)
    weight = np.exp(rng.normal(0.0, 2.0, 5)) if weighted else np.ones(5)
    exact = oracle.exact_loss(x, parts(labels, 5, weight))
    with mpmath.workdps(50):
        divisor = oracle.to_mpf(weight)[labels].sum() if reduction == "mean" else 1
        wanted_loss, wanted_grad = exact.loss.sum() / divisor, exact.grad / divisor
    loss, grad = api.cross_entropy(
        x, labels, weight if weighted else None, reduction=reduction, return_grad=True
    )
    assert_accurate(np.array([loss]), np.array([wanted_loss]))
    assert_accurate(grad, wanted_grad)


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.1, 5.0, 100.0]))
def test_gradients_of_a_slice_sum_to_nothing(api, seed, scale):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2))
    x = rng.normal(0.0, scale, shape)
    labels = rng.integers(shape[1], size=shape[0])
    soft = rng.dirichlet(np.full(shape[1], 0.5), shape[0])
    for target, smoothing in ((labels, 0.0), (labels, 0.2), (soft, 0.0), (soft, 0.2)):
        _, grad = api.cross_entropy(
            x, target, label_smoothing=smoothing, reduction="sum", return_grad=True
        )
        bound = 4 * np.finfo(float).eps * np.abs(grad).max(axis=1)
        unit = 0 if smoothing == 0 and target is labels else 1e-15
        assert np.all(np.abs(grad.sum(axis=1)) <= shape[1] * (bound + unit))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_gradient_is_that_of_the_exact_loss(api, reduction, kind, smoothing):
    """By central differences with 50 digits, which leave an error of 1e-20."""
    rng = np.random.default_rng(5)
    x, weight = rng.normal(0.0, 2.0, (3, 4)), np.array([0.5, 1.0, 2.0, 4.0])
    target = np.array([3, 0, 1]) if kind == "labels" else rng.dirichlet(np.ones(4), 3)
    _, grad = api.cross_entropy(
        x, target, weight, label_smoothing=smoothing, reduction=reduction, return_grad=True
    )
    part = parts(target, 4, weight, smoothing)
    divisor = 1 if reduction != "mean" else 3 if kind != "labels" else weight[target].sum()

    def loss(values):
        logs = [mpmath.log(mpmath.fsum(map(mpmath.exp, row))) for row in values]
        return sum(
            q * (log - value)
            for row, log, of_row in zip(values, logs, part, strict=True)
            for value, q in zip(row, of_row, strict=True)
        )

    with mpmath.workdps(50):
        step = mpmath.mpf("1e-10")
        for place in np.ndindex(x.shape):
            ends = []
            for sign in (1, -1):
                values = oracle.to_mpf(x)
                values[place] += sign * step
                ends.append(loss(values))
            wanted = (ends[0] - ends[1]) / (2 * step) / mpmath.mpf(float(divisor))
            assert float(wanted) == pytest.approx(grad[place], rel=1e-13)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignored", [-100, -1, 0, 2, 255])
@pytest.mark.parametrize("weighted", [False, True])
def test_ignored_labels_count_for_nothing(api, ignored, weighted, reduction):
    rng = np.random.default_rng(6)
    x = rng.normal(0.0, 3.0, (8, 4))
    labels = rng.integers(4, size=8)
    labels[[1, 4]] = ignored
    x[[1, 4]] = [[np.nan], [np.inf]]
    kept = labels != ignored
    weight = np.array([1.0, 2.0, 3.0, 4.0]) if weighted else None
    for smoothing, axis in itertools.product((0.2, 0.0), (0, -1)):
        loss_of = functools.partial(
            api.cross_entropy,
            weight=weight,
            axis=axis,
            ignore_index=ignored,
            label_smoothing=smoothing,
            reduction=reduction,
            return_grad=True,
        )
        if axis == 0:
            loss, grad = loss_of(x.T.copy(), labels)
            wanted, wanted_grad = loss_of(x[kept].T.copy(), labels[kept])
            grad, wanted_grad = grad.T, wanted_grad.T
        else:
            loss, grad = loss_of(x, labels)
            wanted, wanted_grad = loss_of(x[kept], labels[kept])
        if reduction == "none":
            assert np.all(loss[~kept] == 0)
            loss = loss[kept]
        np.testing.assert_array_equal(loss, wanted)
        np.testing.assert_array_equal(grad[kept], wanted_grad)
        assert np.all(grad[~kept] == 0)
    log_probs = np.where(kept[:, np.newaxis], api.log_softmax(x, -1), np.nan)
    got = api.nll_loss(log_probs, labels, weight, ignore_index=ignored, reduction=reduction)
    np.testing.assert_allclose(got if reduction != "none" else got[kept], wanted, rtol=1e-14)


@pytest.mark.parametrize("labels", [[], [-100, -100]], ids=["no slices", "all ignored"])
def test_the_mean_of_nothing_is_nan_and_the_sum_0(api, labels):
    x, labels = np.zeros((len(labels), 3)), np.array(labels, int)
    for function in (api.cross_entropy, api.nll_loss):
        assert np.isnan(function(x, labels))
        assert function(x, labels, reduction="sum") == 0
        assert np.all(function(x, labels, reduction="none") == np.zeros(len(labels)))
    assert np.isnan(api.cross_entropy(x[:0], x[:0]))
    for smoothing in (0.0, 0.1):
        of_label_0 = api.cross_entropy(
            [[0.0, 1.0]], [0], [0.0, 1.0], label_smoothing=smoothing, return_grad=True
        )
        assert np.isnan(of_label_0[0])
        assert np.all(np.isnan(of_label_0[1]))
    assert np.isnan(api.nll_loss([[0.0, 1.0]], [0], [0.0, 1.0]))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_that_overflows_is_inf(api, dtype, wide):
    """Without a warning, which pytest would raise."""
    x = np.zeros((2, 300 if wide else 2), dtype)
    x[:, 1] = -np.finfo(dtype).max
    for function in (api.cross_entropy, api.nll_loss):
        total = function(x, [1, 1], reduction="sum")
        assert total == np.inf
        assert type(total) is np.dtype(dtype).type


@pytest.mark.parametrize(
    "kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4"]
)
def test_labels_of_any_integer_dtype(api, kind):
    x = np.random.default_rng(7).normal(0.0, 3.0, (5, 4))
    labels = np.array([0, 3, 1, 1, 2])
    assert api.cross_entropy(x, labels.astype(kind)) == api.cross_entropy(x, labels)
    assert api.nll_loss(x, labels.astype(kind)) == api.nll_loss(x, labels)
    hits = [
        np.array_equal(*pair)
        for pair in zip(
            api.softmax_grad_hess(x, labels.astype(kind)),
            api.softmax_grad_hess(x, labels),
            strict=True,
        )
    ]
    assert hits == [True, True]


def test_zero_times_infinity_is_zero(api):
    x = [0.0, 0.0, -np.inf]
    assert api.cross_entropy(x, [0.5, 0.5, 0.0]) == pytest.approx(np.log(2), rel=1e-15)
    assert api.cross_entropy(x, 2, [1.0, 1.0, 0.0], reduction="sum") == 0
    assert api.nll_loss(x, 2, [1.0, 1.0, 0.0], reduction="sum") == 0
    smoothed = api.cross_entropy(x, 0, [1.0, 1.0, 0.0], label_smoothing=0.3, reduction="sum")
    assert smoothed == pytest.approx(0.9 * np.log(2), rel=1e-15)
    assert api.cross_entropy(x, 0, label_smoothing=0.3) == np.inf
    assert api.cross_entropy(x, 2) == np.inf
    _, grad = api.cross_entropy(x, 2, return_grad=True)
    np.testing.assert_array_equal(grad, [0.5, 0.5, -1.0])


@pytest.mark.parametrize("row", [[np.nan, 1.0, 2.0], [-np.inf] * 3, [np.inf, 1.0, 2.0]], ids=str)
def test_zero_times_nan_is_nan(api, row):
    """As the gradient is: a model that has gone astray does not go unnoticed."""
    x = np.array([row])
    for target, weight in ((0, [0.0, 1.0, 1.0]), (np.zeros_like(x[0]), None)):
        loss, grad = api.cross_entropy(
            x, np.array([target]), weight, reduction="none", return_grad=True
        )
        assert np.isnan(loss).all()
        assert np.isnan(grad).all()
        if weight:
            log_probs = api.log_softmax(x, -1)
            assert np.isnan(api.nll_loss(log_probs, [target], weight, reduction="none"))


@pytest.mark.parametrize("scale", [1e-310, 1e-50, 1e-44, 1e-40, 1e38, 1e300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_does_not_depend_on_the_scale_of_the_weights(api, dtype, scale):
    x, labels = np.array([[1, 2, 3], [0, 0, 5]], dtype), [0, 1]
    wanted, wanted_grad = api.cross_entropy(x, labels, return_grad=True)
    loss, grad = api.cross_entropy(x, labels, [scale] * 3, return_grad=True)
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(loss, wanted, rtol=tolerance)
    np.testing.assert_allclose(grad, wanted_grad, rtol=tolerance)
    log_probs = api.log_softmax(x, -1)
    got = api.nll_loss(log_probs, labels, [scale] * 3)
    np.testing.assert_allclose(got, wanted, rtol=tolerance)


def test_longdouble_keeps_its_digits(api):
    x = np.zeros((3, 2), np.longdouble)
    for weight in (None, np.ones(2, np.longdouble)):
        loss, grad = api.cross_entropy(x, [0, 0, 1], weight, return_grad=True)
        assert abs(loss - np.log(np.longdouble(2))) <= np.finfo(np.longdouble).eps
        assert np.all(abs(abs(grad) - 1 / np.longdouble(6)) <= np.finfo(np.longdouble).eps / 4)


SLICES = {
    "+inf elsewhere": ([np.inf, 0.0], 1, np.inf),
    "+inf at the label": ([np.inf, 0.0], 0, np.nan),
    "two of +inf": ([np.inf, np.inf], 0, np.nan),
    "-inf alone": ([-np.inf, -np.inf], 0, np.nan),
    "NaN": ([np.nan, 0.0], 1, np.nan),
    "the largest numbers": ([1e308, -1e308], 1, np.inf),
}


@pytest.mark.parametrize("case", SLICES)
def test_special_slices(api, case):
    """The loss is that of `nll_loss` at `log_softmax`."""
    x, label, wanted = SLICES[case]
    for dtype in (np.float64, np.longdouble):
        row = np.array(x, dtype)
        if case == "the largest numbers":
            row[:] = [np.finfo(dtype).max, -np.finfo(dtype).max]
        loss = api.cross_entropy(row, label)
        np.testing.assert_array_equal(loss, dtype(wanted))
        np.testing.assert_array_equal(api.nll_loss(api.log_softmax(row, -1), label), loss)


@pytest.mark.parametrize("columns", [2, 7, 16, 19, 300])
@pytest.mark.parametrize("classes", [3, 40, 200])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_special_slices_among_columns(api, weighted, smoothing, classes, columns):
    """Their losses, and those of their neighbours, are those that they have as single rows."""
    rng = np.random.default_rng(classes * columns)
    x = rng.normal(0.0, 5.0, (columns, classes)).astype(np.float32)
    for value in (np.inf, -np.inf, np.nan, np.finfo(np.float32).max):
        x[rng.integers(columns), rng.integers(classes)] = value
    x[columns // 2] = -np.inf
    labels = rng.integers(classes, size=columns)
    labels[::5] = -100
    options = {"label_smoothing": smoothing, "reduction": "none"}
    if weighted:
        options["weight"] = rng.integers(3, size=classes)
    loss = api.cross_entropy(np.ascontiguousarray(x.T), labels, axis=0, **options)
    alone = [api.cross_entropy(*row, **options) for row in zip(x, labels, strict=True)]
    np.testing.assert_allclose(loss, alone, rtol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "longdouble", "int8", "uint64", "bool"])
def test_other_dtypes(api, dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = getattr(ml_dtypes, dtype, dtype)
    x = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1]]).astype(kind)
    labels = np.array([0, 2, 1])
    natural = np.dtype(np.float64 if np.dtype(kind).kind in "biu" else kind)
    wide = x.astype(np.float64)
    for reduction in REDUCTIONS:
        loss, grad = api.cross_entropy(x, labels, reduction=reduction, return_grad=True)
        wanted, wanted_grad = api.cross_entropy(wide, labels, reduction=reduction, return_grad=True)
        assert loss.dtype == grad.dtype == natural
        tolerance = float(ml_dtypes.finfo(natural).eps) if natural.itemsize == 2 else 4e-16
        np.testing.assert_allclose(loss.astype(float), wanted, rtol=tolerance)
        np.testing.assert_allclose(grad.astype(float), wanted_grad, rtol=tolerance)


def test_a_half_precision_mean_is_summed_more_widely(api):
    """70 000 losses sum to more than float16 holds."""
    x = np.zeros((70_000, 4), np.float16)
    labels = np.zeros(70_000, int)
    assert api.cross_entropy(x, labels) == np.float16(np.log(4))
    assert api.nll_loss(np.full_like(x, -1), labels) == 1


@pytest.mark.parametrize("of_target", LAYOUTS)
@pytest.mark.parametrize("of_x", LAYOUTS)
def test_any_layout_of_logits_and_targets(api, of_x, of_target):
    rng = np.random.default_rng(8)
    x = LAYOUTS[of_x](rng.normal(0.0, 5.0, (3, 4, 5)).astype(np.float32))
    native = x.astype(np.float32)
    for axis in (0, 1, 2, -2):
        shape = np.delete(x.shape, axis)
        labels = LAYOUTS[of_target](rng.integers(x.shape[axis], size=shape))
        soft = LAYOUTS[of_target](rng.uniform(size=x.shape).astype(np.float32))
        for target in (labels, soft):
            loss, grad = api.cross_entropy(x, target, axis=axis, reduction="none", return_grad=True)
            part = target
            if target is labels:
                part = np.moveaxis(np.eye(x.shape[axis])[labels], -1, axis)
            log_values = scipy.special.log_softmax(native.astype(np.float64), axis)
            total = part.sum(axis, dtype=np.float64, keepdims=True)
            np.testing.assert_allclose(loss, -(part * log_values).sum(axis), rtol=2e-7)
            of_share = np.exp(log_values) * total
            # Of the sum of the magnitudes: what is promised of a difference.
            assert np.all(np.abs(grad - (of_share - part)) <= 2e-7 * (of_share + part) + 1e-14)
            assert grad.strides == np.empty_like(x).strides
            got = api.nll_loss(x, labels, axis=axis, reduction="none")
            wanted = -np.take_along_axis(native, np.expand_dims(labels, axis), axis)
            np.testing.assert_array_equal(got, wanted.squeeze(axis))


def test_a_single_slice_and_many_dimensions(api):
    x = np.random.default_rng(9).normal(0.0, 3.0, (2, 3, 4, 5))
    labels = np.random.default_rng(10).integers(3, size=(2, 4, 5))
    losses = api.cross_entropy(x, labels, axis=1, reduction="none")
    assert losses.shape == (2, 4, 5)
    for place in np.ndindex(losses.shape):
        row = x[place[0], :, place[1], place[2]]
        loss = api.cross_entropy(row, labels[place])
        assert type(loss) is np.float64
        assert loss == pytest.approx(losses[place], rel=1e-15)


@pytest.mark.parametrize("name", ["normal 1", "one dominates by 40", "half masked"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nll_loss_of_log_softmax_is_cross_entropy(api, name, dtype):
    x = logits.make(name, (50, 11), dtype)
    labels = x.argmax(axis=1)
    for reduction in REDUCTIONS:
        np.testing.assert_allclose(
            api.nll_loss(api.log_softmax(x, -1), labels, reduction=reduction),
            api.cross_entropy(x, labels, reduction=reduction),
            rtol=4 * np.finfo(dtype).eps,
        )


def test_only_the_loss_needs_no_log_probabilities(api):
    """Beside the logits, memory is taken for the losses and for blocks."""
    import tracemalloc

    x, labels = np.zeros((1000, 1000)), np.zeros(1000, int)
    tracemalloc.start()
    try:
        api.cross_entropy(x, labels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 2
