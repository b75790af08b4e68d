"""Temperatures, calibration errors and reliability diagrams."""

import itertools

import ml_dtypes
import mpmath
import numpy as np
import pytest

import fastsoftmax
from fastsoftmax import calibration
from fastsoftmax.calibration import (
    ReliabilityDisplay,
    calibration_error,
    fit_temperature,
    reliability_curve,
)


def sample(temperature=2.0, shape=(500, 4), seed=0):
    """Logits, and labels drawn from their softmax at the temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 3.0, shape)
    probs = fastsoftmax.softmax(logits, axis=-1, temperature=temperature)
    labels = (probs.cumsum(axis=1) < rng.random((shape[0], 1))).sum(axis=1)
    return logits, np.minimum(labels, shape[1] - 1)


def slope(logits, labels, temperature, weight=None):
    """The exact derivative of the cross-entropy by 1 / T, relative to its terms."""
    with mpmath.workdps(40):
        terms = []
        for i, (row, label) in enumerate(zip(logits.tolist(), labels, strict=True)):
            powers = [mpmath.exp((mpmath.mpf(value) - max(row)) / temperature) for value in row]
            mean = mpmath.fdot(powers, [value - mpmath.mpf(row[label]) for value in row])
            terms.append(mean / mpmath.fsum(powers) * (1 if weight is None else float(weight[i])))
        return float(mpmath.fsum(terms) / mpmath.fsum(map(abs, terms)))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("shape", [(500, 4), (50, 2), (2000, 10)], ids=str)
def test_the_temperature_is_where_the_loss_has_no_slope(temperature, shape):
    logits, labels = sample(temperature, shape)
    fitted = fit_temperature(logits, labels)
    assert type(fitted) is float
    assert abs(slope(logits, labels, fitted)) < 1e-14
    if shape[0] > 50:
        assert fitted == pytest.approx(temperature, rel=0.3)
    for other in (fitted * 0.99, fitted * 1.01):
        losses = [fastsoftmax.cross_entropy(logits / t, labels) for t in (fitted, other)]
        assert losses[0] < losses[1]


@pytest.mark.parametrize("factor", [1e-300, 1e-10, 0.1, 3.0, 1e100, 1e307])
def test_the_temperature_scales_as_the_logits_do(factor):
    logits, labels = sample()
    wanted = fit_temperature(logits, labels) * factor
    assert fit_temperature(logits * factor, labels) == pytest.approx(wanted, rel=1e-12)


def test_the_temperature_changes_with_no_shift():
    logits, labels = sample()
    shifted = logits + np.random.default_rng(1).integers(-8, 8, (500, 1))
    assert fit_temperature(shifted, labels) == pytest.approx(
        fit_temperature(logits, labels), rel=1e-13
    )


def test_a_weight_is_a_number_of_copies():
    logits, labels = sample()
    copies = np.random.default_rng(2).integers(0, 4, 500)
    fitted = fit_temperature(logits, labels, sample_weight=copies)
    repeated = fit_temperature(logits.repeat(copies, 0), labels.repeat(copies))
    assert fitted == pytest.approx(repeated, rel=1e-13)
    assert fit_temperature(logits, labels, sample_weight=copies * 1e-300) == pytest.approx(
        fitted, rel=1e-13
    )
    assert abs(slope(logits, labels, fitted, copies)) < 1e-14


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", ">f8"])
def test_logits_of_other_dtypes(dtype):
    logits, labels = sample()
    logits = logits.astype(dtype)
    wanted = fit_temperature(logits.astype(np.float64), labels)
    assert fit_temperature(logits, labels.astype(np.uint8)) == wanted


@pytest.mark.filterwarnings("ignore:Since FrozenEstimator does not appear to accept sample_weight")
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_temperature_is_that_of_scikit_learn(classes, weighted):
    pytest.importorskip("sklearn", minversion="1.8")
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Given(ClassifierMixin, BaseEstimator):
        """Its decision function is its input: two classes have the difference of their logits."""

        def fit(self, features, labels):
            self.classes_ = np.arange(classes)
            return self

        def decision_function(self, features):
            return features[:, 0] if classes == 2 else features

        def predict(self, features):
            return self.classes_[features.argmax(axis=1)]

    logits, labels = sample(2.0, (400, classes))
    if classes == 2:
        logits -= logits.mean(axis=1, keepdims=True)  # -x and x are what it makes of x
    features = logits[:, 1:] if classes == 2 else logits
    weight = np.random.default_rng(3).uniform(0.1, 2.0, 400) if weighted else None
    model = CalibratedClassifierCV(
        FrozenEstimator(Given().fit(None, None)), method="temperature", ensemble=False
    ).fit(features, labels, sample_weight=weight)
    theirs = 1 / model.calibrated_classifiers_[0].calibrators[0].beta_
    ours = fit_temperature(logits, labels, sample_weight=weight)
    assert ours == pytest.approx(float(theirs), rel=1e-6)
    probs = fastsoftmax.softmax(logits, axis=1, temperature=ours)
    np.testing.assert_allclose(probs, model.predict_proba(features), rtol=1e-5)


LOGITS, LABELS = sample(shape=(20, 3))
SEPARABLE = np.eye(3)[LABELS]
BAD_LOGITS = {}
for name in ("NaN", "+inf", "-inf"):
    BAD_LOGITS[name] = LOGITS.copy()
    BAD_LOGITS[name][3, 1] = float(name)
FIT_ERRORS = {
    **{
        f"logits with {name}": ({"logits": bad}, ValueError, "logits must be finite, got ")
        for name, bad in BAD_LOGITS.items()
    },
    "separable": ({"logits": SEPARABLE}, ValueError, "logits .*lower the temperature"),
    "separable in float32": (
        {"logits": np.float32(1e-30) * SEPARABLE},
        ValueError,
        "logits .*lower the temperature",
    ),
    "separable where it counts": (
        {
            "logits": np.where(np.arange(20)[:, np.newaxis] == 5, -SEPARABLE, SEPARABLE),
            "sample_weight": np.arange(20) != 5.0,
        },
        ValueError,
        "logits .*lower the temperature",
    ),
    "opposed": ({"logits": -SEPARABLE}, ValueError, "logits .*higher the temperature"),
    "opposed to each other": (
        {
            "logits": [[0.1, 0.1, -2.4], [0.5, -0.3, -0.3], [-0.1, -0.1, 2.4], [-0.5, 0.3, 0.3]],
            "labels": [2, 0, 2, 0],
        },
        ValueError,
        "logits .*higher the temperature",
    ),
    "next to nothing": (
        {"logits": [[1e-310, 0], [1e-310, 0], [0, 1e-310], [0, 1.0]], "labels": [1, 0, 1, 1]},
        ValueError,
        "logits have their best temperature beyond the range",
    ),
    "the largest numbers": (
        {"logits": [[1.7e308, -1.7e308]] * 3, "labels": [0, 0, 1]},
        ValueError,
        "logits have their best temperature beyond the range",
    ),
    "weights beyond float64": (
        {"sample_weight": np.full(20, np.finfo(np.longdouble).max)},
        ValueError,
        "sample_weight must be finite",
    ),
    "equal logits": ({"logits": np.ones((20, 3))}, ValueError, "logits are equal within each"),
    "labels of one class": ({"labels": np.ones(20, int)}, ValueError, "labels are all 1"),
    "one class": ({"logits": LOGITS[:, :1], "labels": 0 * LABELS}, ValueError, "two classes"),
    "no samples": ({"logits": LOGITS[:0], "labels": LABELS[:0]}, ValueError, r"shape \(0, 3\)"),
    "one row": ({"logits": LOGITS[0], "labels": 1}, ValueError, r"logits has shape \(3,\)"),
    "label out of range": ({"labels": LABELS + 1}, IndexError, "labels 3 is out of range"),
    "label negative": ({"labels": LABELS - 1}, IndexError, "labels -1 is out of range"),
    "labels of floats": ({"labels": LABELS * 1.0}, TypeError, "labels has dtype float64"),
    "labels too few": ({"labels": LABELS[1:]}, ValueError, r"labels has shape \(19,\)"),
    "weights too few": ({"sample_weight": [1.0]}, ValueError, r"sample_weight has shape \(1,\)"),
    "weights negative": ({"sample_weight": -(LOGITS[:, 0] ** 2)}, ValueError, "sample_weight must"),
    "weights of zero": ({"sample_weight": np.zeros(20)}, ValueError, "sample_weight must be pos"),
    "complex logits": ({"logits": LOGITS + 1j}, TypeError, "logits has dtype complex128"),
    "masked logits": ({"logits": np.ma.array(LOGITS)}, TypeError, "logits is a .*MaskedArray"),
}


@pytest.mark.parametrize("case", FIT_ERRORS)
def test_no_temperature(case):
    options, exception, message = FIT_ERRORS[case]
    with pytest.raises(exception, match=message):
        fit_temperature(**{"logits": LOGITS, "labels": LABELS} | options)


def test_a_temperature_that_is_nearly_none():
    """One sample in a million against all the others still has a best temperature."""
    labels = np.zeros(1_000_000, int)
    labels[0] = 1
    logits = np.tile([1.0, 0.0], (1_000_000, 1))
    assert fit_temperature(logits, labels) == pytest.approx(1 / np.log(999_999), rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_logits_that_tell_nothing_have_no_temperature(seed):
    """The slope of the loss at infinite temperature is 0, but for rounding."""
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(50, 3)), rng.integers(0, 3, 50)
    with pytest.raises(ValueError, match=r"logits .*higher the temperature"):
        fit_temperature(np.vstack([logits, -logits]), np.tile(labels, 2))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_confidences_of_16_bits_are_not_rounded(dtype):
    logits, labels = sample()
    logits = logits.astype(dtype)
    for options in ({}, {"strategy": "quantile"}):
        got = reliability_curve(logits, labels, **options)
        wanted = reliability_curve(logits.astype(np.float32), labels, **options)
        np.testing.assert_array_equal(got, wanted)
    for classwise in (False, True):
        got = calibration_error(logits, labels, classwise=classwise)
        assert got == calibration_error(logits.astype(np.float32), labels, classwise=classwise)


def by_hand(confidence, is_right, edges):
    """Bins one by one, each with its upper end; and for the first one its lower end as well."""
    rows = []
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (confidence > low) & (confidence <= high)
        if i == 0:
            inside |= confidence <= low
        if i == len(edges) - 2:
            inside |= confidence > high
        n = int(inside.sum())
        rows.append(
            (confidence[inside].mean(), is_right[inside].mean(), n) if n else (np.nan, np.nan, 0)
        )
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("n_bins", [1, 2, 15, 100])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_curve_and_the_errors_are_those_found_bin_by_bin(dtype, n_bins, strategy):
    logits, labels = sample()
    logits = logits.astype(dtype)
    probs = fastsoftmax.softmax(logits, axis=1)
    edges = np.linspace(0, 1, n_bins + 1)

    def of_bins(confidence, is_right):
        confidence = confidence.astype(np.float64)
        at = edges if strategy == "uniform" else np.quantile(confidence, edges)
        return by_hand(confidence, is_right, at)

    top = of_bins(probs.max(axis=1), probs.argmax(axis=1) == labels)
    each = [of_bins(probs[:, c], labels == c) for c in range(4)]
    assert top[2].sum() == 500
    for given, from_logits in ((logits, True), (probs, False)):
        options = {"n_bins": n_bins, "strategy": strategy, "from_logits": from_logits}
        curve = calibration.reliability_curve(given, labels, **options)
        assert [a.dtype.kind for a in curve] == ["f", "f", "i"]
        for got, wanted in zip(curve, top, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-6)

        def norms(curve):
            mean, accuracy, count = (a[curve[2] > 0] for a in curve)
            gap = np.abs(mean - accuracy)
            return {
                "l1": (gap * count).sum() / 500,
                "l2": np.sqrt((gap**2 * count).sum() / 500),
                "max": gap.max(),
            }

        for norm, wanted in norms(top).items():
            error = calibration_error(given, labels, norm=norm, **options)
            assert type(error) is float
            assert error == pytest.approx(wanted, rel=1e-5)
            wanted = np.mean([norms(curve)[norm] for curve in each])
            error = calibration_error(given, labels, norm=norm, classwise=True, **options)
            assert error == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_the_curve_is_that_of_scikit_learn(strategy):
    """Theirs leaves out the bins without samples."""
    sklearn_calibration = pytest.importorskip("sklearn.calibration")
    logits, labels = sample()
    probs = fastsoftmax.softmax(logits, axis=1)
    accuracy, mean = sklearn_calibration.calibration_curve(
        probs.argmax(axis=1) == labels, probs.max(axis=1), n_bins=10, strategy=strategy
    )
    curve = calibration.reliability_curve(logits, labels, n_bins=10, strategy=strategy)
    has_samples = curve[2] > 0
    np.testing.assert_allclose(curve[0][has_samples], mean, rtol=1e-13)
    np.testing.assert_allclose(curve[1][has_samples], accuracy, rtol=1e-13)


def test_the_end_of_a_bin_belongs_to_it():
    probs = np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]])
    _, _, count = calibration.reliability_curve(probs, [0, 0, 0], from_logits=False, n_bins=4)
    assert count.tolist() == [0, 1, 1, 1]


def test_labels_drawn_from_the_softmax_are_calibrated():
    """Then the error is of the size of chance; it is large where the logits are doubled."""
    logits, labels = sample(1.0, (20_000, 3))
    assert calibration_error(logits, labels) < 0.02
    assert calibration_error(3 * logits, labels) > 0.1
    assert calibration_error(logits, labels, classwise=True) < 0.02


def test_the_fitted_temperature_lowers_the_error_and_changes_no_decision():
    logits, labels = sample(2.5, (5000, 5))
    cooled = logits / fit_temperature(logits, labels)
    assert calibration_error(cooled, labels) < calibration_error(logits, labels) / 3
    np.testing.assert_array_equal(fastsoftmax.predict(cooled), fastsoftmax.predict(logits))


PROBS = fastsoftmax.softmax(LOGITS, axis=1)
CURVE_ERRORS = {
    **{
        f"logits with {name}": ({"logits_or_probs": BAD_LOGITS[name]}, ValueError, "in sample 3")
        for name in ("NaN", "+inf")
    },
    "logits as probabilities": (
        {"from_logits": False},
        ValueError,
        "probs must not be negative or NaN, got -",
    ),
    "probabilities of NaN": (
        {"logits_or_probs": PROBS * np.nan, "from_logits": False},
        ValueError,
        "probs must not be negative or NaN, got nan",
    ),
    "probabilities that sum to less": (
        {"logits_or_probs": PROBS * 0.9, "from_logits": False},
        ValueError,
        "probs must sum to 1 in each sample, got 0.9 in sample 0; are they logits",
    ),
    "no samples": (
        {"logits_or_probs": LOGITS[:0], "labels": LABELS[:0]},
        ValueError,
        r"logits has shape \(0, 3\)",
    ),
    "one row": ({"logits_or_probs": LOGITS[0]}, ValueError, r"logits has shape \(3,\)"),
    "label out of range": ({"labels": LABELS + 1}, IndexError, "labels 3 is out of range"),
    "labels of floats": ({"labels": LABELS * 1.0}, TypeError, "labels has dtype float64"),
    "no bins": ({"n_bins": 0}, ValueError, "n_bins must be at least 1, got 0"),
    "half a bin": ({"n_bins": 0.5}, TypeError, "n_bins must be an integer"),
    "strategy": ({"strategy": "even"}, ValueError, "strategy must be one of uniform, quantile"),
    "complex": ({"logits_or_probs": LOGITS + 1j}, TypeError, "logits has dtype complex128"),
}


@pytest.mark.parametrize("case", CURVE_ERRORS)
def test_no_curve(case):
    options, exception, message = CURVE_ERRORS[case]
    arguments = {"logits_or_probs": LOGITS, "labels": LABELS} | options
    with pytest.raises(exception, match=message):
        calibration.reliability_curve(**arguments)
    for classwise in (False, True):
        with pytest.raises(exception, match=message):
            calibration_error(**arguments, classwise=classwise)


def test_an_unknown_norm():
    with pytest.raises(ValueError, match="norm must be one of l1, l2, max, got 'l3'"):
        calibration_error(LOGITS, LABELS, norm="l3")


def test_logits_of_minus_infinity_are_of_classes_that_are_excluded():
    logits = np.where(np.eye(3)[(LABELS + 1) % 3] == 1, -np.inf, LOGITS)
    probs = fastsoftmax.softmax(logits, axis=1)
    for classwise in (False, True):
        assert calibration_error(logits, LABELS, classwise=classwise) == pytest.approx(
            calibration_error(probs, LABELS, from_logits=False, classwise=classwise), rel=1e-12
        )


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    yield pyplot
    pyplot.close("all")


def test_the_display_shows_the_curve(pyplot):
    for display in (
        ReliabilityDisplay.from_logits(LOGITS, LABELS, n_bins=5, name="this"),
        ReliabilityDisplay.from_predictions(PROBS, LABELS, n_bins=5, name="this"),
    ):
        mean, accuracy, count = calibration.reliability_curve(LOGITS, LABELS, n_bins=5)
        np.testing.assert_allclose(display.line_.get_xdata(), mean[count > 0], rtol=1e-14)
        np.testing.assert_array_equal(display.line_.get_ydata(), accuracy[count > 0])
        np.testing.assert_array_equal(display.count, count)
        assert display.figure_ is display.ax_.figure
        labels = display.ax_.get_legend_handles_labels()[1]
        assert labels == ["calibrated", "this"]
        display.figure_.canvas.draw()


def test_two_curves_share_axes_and_one_line_of_reference(pyplot):
    _, ax = pyplot.subplots()
    first = ReliabilityDisplay.from_logits(LOGITS, LABELS, name="before", ax=ax, color="red")
    again = first.plot(ax, name="after", linestyle=":")
    assert again is first
    assert first.ax_ is ax
    assert ax.get_legend_handles_labels()[1] == ["calibrated", "before", "after"]
    bare = ReliabilityDisplay(*calibration.reliability_curve(LOGITS, LABELS)).plot(ref_line=False)
    assert len(bare.ax_.lines) == 1
    assert bare.ax_.get_legend() is None
