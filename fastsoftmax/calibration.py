"""How far softmax values are from being probabilities, and the temperature that brings them nearer.

A classifier is calibrated if, of the decisions in which its largest softmax value is 0.8, it gets 8
in 10 right, and likewise for every other value. That is a property of a model and its data: measure
it on data that the model was not trained on, and fit the temperature on other data again.
"""

from __future__ import annotations  # for help(), which would spell out what ArrayLike stands for

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsoftmax import _arguments
from fastsoftmax._functions import IN_FORCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ReliabilityDisplay", "calibration_error", "fit_temperature", "reliability_curve"]

Array = NDArray[Any]

NORMS = ("l1", "l2", "max")
STRATEGIES = ("uniform", "quantile")


def fit_temperature(
    logits: ArrayLike, labels: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Temperature T whose softmax(logits / T) has the least cross-entropy with the labels.

    Parameters
    ----------
    logits : array_like
        Finite real numbers of shape (samples, classes), from data held out of the training.
    labels : array_like of int
        The class of each sample, of shape (samples,).
    sample_weight : array_like, optional
        The weight of each sample, of shape (samples,), by default 1.

    Returns
    -------
    float
        The temperature: above 1 for a model that is surer than it should be, below 1 for one that
        is less sure.

    Raises
    ------
    TypeError
        If `logits` or `sample_weight` does not consist of real numbers, or `labels` of integers; if
        one is a masked array or a matrix.
    ValueError
        If an argument has the wrong shape; if a logit is not finite, or a weight negative or not
        finite; if the labels are all of one class; if no temperature is the best: where every label
        has the largest logit of its sample, the loss falls as the temperature goes to 0, and where
        the logits tell nothing, or the opposite, it falls as the temperature grows, or is constant.
    IndexError
        If a label is not a class.

    See Also
    --------
    fastsoftmax.softmax : takes the result as `temperature`.
    calibration_error : what it should lower.

    Notes
    -----
    A temperature changes no decision, as it keeps the order of the logits [1]_. The loss is convex
    in 1 / T; its minimum is found by Newton's method, in float64, within an interval that shrinks.
    scikit-learn's ``CalibratedClassifierCV(method="temperature")`` minimises the same function.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural
       networks", ICML 2017.

    Examples
    --------
    Sure of itself by 3 to 1 on a scale of logarithms, and right in 3 of 4 cases:

    >>> from fastsoftmax.calibration import fit_temperature
    >>> logits = [[3.0, 0.0], [3.0, 0.0], [0.0, 3.0], [0.0, 3.0]]
    >>> temperature = fit_temperature(logits, [0, 0, 1, 0])
    >>> round(temperature, 6)
    2.730718
    """
    with np.errstate(all="ignore"):
        values = _samples("logits", logits).astype(np.float64)
    count, classes = values.shape
    if classes < 2:
        raise ValueError(f"logits has shape {values.shape}, need two classes at least")
    of_samples = _labels(labels, values.shape)
    weight = _arguments.as_weight("sample_weight", sample_weight, count, "sample", values.dtype)
    if weight is None:
        weight = np.ones(count)
    is_finite = np.isfinite(values)
    if not is_finite.all():
        raise ValueError(f"logits must be finite, got {values[~is_finite][0]}")
    counts = weight > 0
    if not counts.any():
        raise ValueError("sample_weight must be positive for a sample at least")
    values, of_samples, weight = values[counts], of_samples[counts], weight[counts]
    if (of_samples == of_samples[0]).all():
        raise ValueError(f"labels are all {of_samples[0]}, need two classes at least")

    # In units in which differences can neither overflow nor vanish.
    _, exponent = np.frexp(np.abs(values).max())
    values = np.ldexp(values, -exponent)
    values -= np.take_along_axis(values, of_samples[:, np.newaxis], axis=1)
    weight = weight / weight.max()
    if (values == 0).all():
        raise ValueError("logits are equal within each sample: no temperature changes the loss")
    if (values.max(axis=1) <= 0).all():
        raise ValueError(
            "logits have the largest value of every sample at its label: "
            "the lower the temperature, the lower the loss, and none is the best"
        )
    scale = _best_scale(values, weight)
    if scale <= _SCALES[0]:
        raise ValueError(
            "logits are no larger at the labels than elsewhere on average: "
            "the higher the temperature, the lower the loss, and none is the best"
        )
    with np.errstate(over="ignore", under="ignore"):
        temperature = float(np.ldexp(1 / scale, exponent))
    if scale >= _SCALES[1] or not 0 < temperature < np.inf:
        raise ValueError("logits have their best temperature beyond the range of float64")
    return temperature


_SCALES = 2.0**-40, 2.0**1000
"""Reciprocals of temperatures that are looked for, where the largest logit is near 1. At the former
the loss has a slope that is lost in rounding."""


def _best_scale(values: Array, weight: Array) -> float:
    """The b of least sum(weight * logsumexp(b * values)); the end of `_SCALES` beyond which it is.

    Newton's method, kept between the ends of an interval in which the slope changes its sign.
    """
    low, high, scale = 0.0, np.inf, 1.0
    while _SCALES[0] < scale < _SCALES[1]:
        probabilities = IN_FORCE.softmax(scale * values, axis=1)
        mean = (probabilities * values).sum(axis=1)
        slope = weight @ mean
        curvature = weight @ (probabilities * (values - mean[:, np.newaxis]) ** 2).sum(axis=1)
        if slope < 0:
            low = scale
        else:
            high = scale
        with np.errstate(all="ignore"):
            following = float(scale - slope / curvature)
        if abs(following - scale) <= 1e-15 * scale:
            break
        if not low < following < high:
            if high == np.inf:
                following = min(16 * scale, _SCALES[1])
            elif low == 0:
                following = max(scale / 16, _SCALES[0])
            else:
                following = low + (high - low) / 2
                if following in (low, high):
                    break
        scale = following
    return scale


def reliability_curve(
    logits_or_probs: ArrayLike,
    labels: ArrayLike,
    *,
    from_logits: bool = True,
    n_bins: int = 15,
    strategy: str = "uniform",
) -> tuple[Array, Array, Array]:
    """How sure a classifier is of its decisions, and how often they are right, in bins.

    Parameters
    ----------
    logits_or_probs : array_like
        Real numbers of shape (samples, classes): logits, or with ``from_logits=False``
        probabilities.
    labels : array_like of int
        The class of each sample, of shape (samples,).
    from_logits : bool, optional
        Whether a softmax is still to be taken, as it is by default.
    n_bins : int, optional
        The number of bins.
    strategy : {"uniform", "quantile"}, optional
        Whether the bins divide the interval from 0 to 1 evenly, or the samples. A bin includes its
        upper end.

    Returns
    -------
    mean_confidence : ndarray of float64
        The mean of the largest softmax values or probabilities in each bin, and NaN in one without
        samples. The shape is (n_bins,).
    accuracy : ndarray of float64
        The part of the decisions that are right, likewise.
    count : ndarray of int
        The number of samples in each bin.

    Raises
    ------
    TypeError
        If `logits_or_probs` does not consist of real numbers, or `labels` of integers; if one is a
        masked array or a matrix; if `n_bins` is not an integer.
    ValueError
        If an argument has the wrong shape; if a sample has no softmax because of NaN or infinities;
        if probabilities are negative, or do not sum to 1 within 1 %; if `n_bins` is not positive or
        `strategy` none of the above.
    IndexError
        If a label is not a class.

    See Also
    --------
    calibration_error : the difference of the two, in one number.
    ReliabilityDisplay : the picture of it.

    Examples
    --------
    >>> from fastsoftmax.calibration import reliability_curve
    >>> probs = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.4, 0.6]]
    >>> mean_confidence, accuracy, count = reliability_curve(
    ...     probs, [0, 1, 1, 1], from_logits=False, n_bins=4
    ... )
    >>> mean_confidence.round(3)
    array([  nan,   nan, 0.6  , 0.833])
    >>> accuracy.round(3)
    array([  nan,   nan, 1.   , 0.667])
    >>> count
    array([0, 0, 1, 3])
    """
    name = "logits" if from_logits else "probs"
    values = _samples(name, logits_or_probs)
    of_samples = _labels(labels, values.shape)
    bins = _arguments.as_count("n_bins", n_bins, 1)
    strategy = _arguments.as_choice("strategy", strategy, STRATEGIES)
    if from_logits:
        predicted, confidence = IN_FORCE.predict(values, return_confidence=True)
        _check_softmax(confidence)
    else:
        _check_probabilities(values)
        predicted, confidence = values.argmax(axis=1), values.max(axis=1)
    return _curve(confidence, predicted == of_samples, bins, strategy)


def calibration_error(
    logits_or_probs: ArrayLike,
    labels: ArrayLike,
    *,
    from_logits: bool = True,
    n_bins: int = 15,
    norm: str = "l1",
    strategy: str = "uniform",
    classwise: bool = False,
) -> float:
    r"""Distance between how sure a classifier is and how often it is right.

    The samples are put into bins by their largest softmax value. In bin b, with :math:`n_b` of the
    n samples, the gap :math:`g_b` is that between the mean of these values and the part of the
    decisions that are right.

    Parameters
    ----------
    logits_or_probs : array_like
        Real numbers of shape (samples, classes): logits, or with ``from_logits=False``
        probabilities.
    labels : array_like of int
        The class of each sample, of shape (samples,).
    from_logits : bool, optional
        Whether a softmax is still to be taken, as it is by default.
    n_bins : int, optional
        The number of bins.
    norm : {"l1", "l2", "max"}, optional
        The expected calibration error :math:`\sum_b n_b |g_b| / n` [1]_, the root of the mean
        square :math:`\sqrt{\sum_b n_b g_b^2 / n}`, or the maximum calibration error
        :math:`\max_b |g_b|`.
    strategy : {"uniform", "quantile"}, optional
        Whether the bins divide the interval from 0 to 1 evenly, or the samples.
    classwise : bool, optional
        Whether to compare, for each class, its values with how often it is the label, and to return
        the mean of the errors of all classes [2]_. By default the likeliest class alone counts.

    Returns
    -------
    float
        The error, from 0 to 1.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `reliability_curve` does; ValueError also if there are no samples, or `norm` is none of
        the above.

    See Also
    --------
    reliability_curve : the bins themselves.
    fit_temperature : a way to lower the error.

    Notes
    -----
    The error of a perfectly calibrated classifier is not 0 for finitely many samples, and depends
    on the number of bins: compare errors for the same bins and samples only.

    References
    ----------
    .. [1] M. P. Naeini, G. F. Cooper and M. Hauskrecht, "Obtaining well calibrated probabilities
       using Bayesian binning", AAAI 2015.
    .. [2] M. Kull et al., "Beyond temperature scaling: obtaining well-calibrated multiclass
       probabilities with Dirichlet calibration", NeurIPS 2019.

    Examples
    --------
    >>> from fastsoftmax.calibration import calibration_error
    >>> logits = [[3.0, 0.0], [3.0, 0.0], [0.0, 3.0], [0.0, 3.0]]
    >>> round(calibration_error(logits, [0, 0, 1, 0]), 4)
    0.2026
    """
    norm = _arguments.as_choice("norm", norm, NORMS)
    if not classwise:
        curve = reliability_curve(
            logits_or_probs, labels, from_logits=from_logits, n_bins=n_bins, strategy=strategy
        )
        return _error(curve, norm)
    name = "logits" if from_logits else "probs"
    values = _samples(name, logits_or_probs)
    of_samples = _labels(labels, values.shape)
    bins = _arguments.as_count("n_bins", n_bins, 1)
    strategy = _arguments.as_choice("strategy", strategy, STRATEGIES)
    if from_logits:
        values = IN_FORCE.softmax(values, axis=1)
        _check_softmax(values[:, 0])
    else:
        _check_probabilities(values)
    errors = [
        _error(_curve(values[:, label], of_samples == label, bins, strategy), norm)
        for label in range(values.shape[1])
    ]
    return float(np.mean(errors))


class ReliabilityDisplay:
    """Reliability diagram: how often a classifier is right, against how sure it is.

    In the manner of scikit-learn's displays: make one by `from_logits` or `from_predictions`, which
    draw it, and find what was drawn in its attributes. Drawing needs matplotlib.

    Parameters
    ----------
    mean_confidence, accuracy, count : ndarray
        What `reliability_curve` returns.
    name : str, optional
        The name of the classifier, for the legend.

    Attributes
    ----------
    line_ : matplotlib.lines.Line2D
        The curve.
    ax_ : matplotlib.axes.Axes
        Where it is drawn.
    figure_ : matplotlib.figure.Figure
        The figure of `ax_`.

    See Also
    --------
    reliability_curve, calibration_error

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from fastsoftmax.calibration import ReliabilityDisplay
    >>> logits = [[3.0, 0.0], [3.0, 0.0], [0.0, 3.0], [0.0, 3.0]]
    >>> display = ReliabilityDisplay.from_logits(logits, [0, 0, 1, 0], name="sure of itself")
    >>> display.ax_.get_xlabel()
    'mean of the largest softmax value'
    """

    def __init__(
        self,
        mean_confidence: Array,
        accuracy: Array,
        count: Array,
        *,
        name: str | None = None,
    ) -> None:
        self.mean_confidence = mean_confidence
        self.accuracy = accuracy
        self.count = count
        self.name = name

    @classmethod
    def from_logits(
        cls,
        logits: ArrayLike,
        labels: ArrayLike,
        *,
        n_bins: int = 15,
        strategy: str = "uniform",
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> ReliabilityDisplay:
        """Draw the diagram of logits and labels.

        The parameters are those of `reliability_curve` and of `plot`, the errors those of
        `reliability_curve`.
        """
        curve = reliability_curve(logits, labels, n_bins=n_bins, strategy=strategy)
        return cls(*curve, name=name).plot(ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        probs: ArrayLike,
        labels: ArrayLike,
        *,
        n_bins: int = 15,
        strategy: str = "uniform",
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> ReliabilityDisplay:
        """Draw the diagram of probabilities and labels.

        The parameters are those of `reliability_curve` and of `plot`, the errors those of
        `reliability_curve`.
        """
        curve = reliability_curve(
            probs, labels, from_logits=False, n_bins=n_bins, strategy=strategy
        )
        return cls(*curve, name=name).plot(ax, **kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        name: str | None = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> ReliabilityDisplay:
        """Draw the diagram.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw. By default a new figure is made.
        name : str, optional
            The name of the classifier, for the legend; by default that of the display.
        ref_line : bool, optional
            Whether to draw the line of a calibrated classifier, unless `ax` has it already.
        **kwargs
            For `matplotlib.axes.Axes.plot`, which draws the curve.

        Returns
        -------
        ReliabilityDisplay
            The display itself.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots()
        if ref_line and CALIBRATED not in ax.get_legend_handles_labels()[1]:
            ax.plot([0, 1], [0, 1], color="0.4", linestyle="--", label=CALIBRATED)
        label = self.name if name is None else name
        has_samples = self.count > 0
        (self.line_,) = ax.plot(
            self.mean_confidence[has_samples],
            self.accuracy[has_samples],
            **{"marker": "o", "label": label} | kwargs,
        )
        ax.set(
            xlabel="mean of the largest softmax value",
            ylabel="fraction of decisions that are right",
        )
        if ax.get_legend_handles_labels()[1]:
            ax.legend(loc="upper left")
        self.ax_ = ax
        self.figure_ = ax.figure
        return self


CALIBRATED = "calibrated"


def _samples(name: str, values: ArrayLike) -> Array:
    """An array of (samples, classes), wide enough for a softmax of it to be counted into bins."""
    array = _arguments.as_array(name, values)
    if _arguments.real_dtype(name, array.dtype).itemsize == 2:
        array = array.astype(np.float32)
    if array.ndim != 2 or array.shape[0] == 0 or array.shape[1] == 0:
        raise ValueError(f"{name} has shape {array.shape}, need (samples, classes), none of them 0")
    return array


def _labels(labels: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    array = _arguments.as_array("labels", labels)
    return _arguments.as_labels("labels", array, shape[:1], shape[1])


def _check_softmax(values: Array) -> None:
    is_nan = np.isnan(values)
    if is_nan.any():
        raise ValueError(f"logits have no softmax in sample {is_nan.argmax()}: NaN or infinite")


def _check_probabilities(values: Array) -> None:
    if not (values >= 0).all():
        raise ValueError(f"probs must not be negative or NaN, got {values[~(values >= 0)][0]}")
    totals = values.sum(axis=1, dtype=np.float64)
    is_wrong = ~(abs(totals - 1) <= 0.01)
    if is_wrong.any():
        raise ValueError(
            f"probs must sum to 1 in each sample, got {totals[is_wrong][0]:g} "
            f"in sample {is_wrong.argmax()}; are they logits?"
        )


def _curve(
    confidence: Array, is_right: Array, bins: int, strategy: str
) -> tuple[Array, Array, Array]:
    """Mean confidence, part that is right, and count in bins, which include their upper ends."""
    confidence = confidence.astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    if strategy == "quantile":
        edges = np.quantile(confidence, edges)
    places = np.searchsorted(edges[1:-1], confidence)
    count = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean, accuracy = (
            np.bincount(places, values, minlength=bins) / count for values in (confidence, is_right)
        )
    return mean, accuracy, count


def _error(curve: tuple[Array, Array, Array], norm: str) -> float:
    mean, accuracy, count = (a[curve[2] > 0] for a in curve)
    gaps = abs(mean - accuracy)
    if norm == "max":
        return float(gaps.max())
    power = 1 if norm == "l1" else 2
    return float(np.average(gaps**power, weights=count) ** (1 / power))
