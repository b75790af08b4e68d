"""The kernels of losses and gradients in NumPy.

In every one, what is small because nearly everything goes to one class is computed from the other
classes, and not as the difference of two numbers that are nearly equal.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax import _compensated, _exponents

Array = NDArray[Any]


class Kernels:
    """The part of `_fallback.Kernels` that is about losses."""

    @np.errstate(all="ignore")
    def cross_entropy_labels(
        self,
        x: Array,
        target: NDArray[np.int64],
        class_weight: Array | None,
        label_smoothing: float,
        loss: Array,
        grad: Array | None,
        scale: float,
    ) -> None:
        """Write the loss of each slice over axis 1, and `scale` times its gradient.

        `target` and `loss` are (outer, inner); a negative target has no loss. `class_weight` is
        (length,), of the working precision.
        """
        loss.fill(0)
        for block, peak, head, tail in _exponents.exponents(x, None, None):
            labels = target[:, np.newaxis][block]
            is_ignored = labels < 0
            labels = np.where(is_ignored, 0, labels)
            weight = np.ones_like(peak) if class_weight is None else class_weight[labels]
            if label_smoothing == 0:
                losses, grads = _of_labels(peak, head, tail, labels, weight, grad is not None)
            else:
                part = np.zeros_like(head)
                np.put_along_axis(part, labels, 1, axis=1)
                part = _weighted_parts(part, class_weight, label_smoothing)
                losses, grads = _of_parts(peak, head, tail, part, grad is not None)
            np.copyto(loss[:, np.newaxis][block], losses, where=~is_ignored, casting="same_kind")
            if grad is not None:
                grads *= scale
                np.copyto(grads, 0, where=is_ignored)
                np.copyto(grad[block], grads, casting="same_kind")

    @np.errstate(all="ignore")
    def cross_entropy_probabilities(
        self,
        x: Array,
        target: Array,
        class_weight: Array | None,
        label_smoothing: float,
        loss: Array,
        grad: Array | None,
        scale: float,
    ) -> None:
        """The same for targets of the shape and dtype of `x`."""
        loss.fill(0)
        for block, peak, head, tail in _exponents.exponents(x, None, None):
            part = target[block].astype(head.dtype)
            part = _weighted_parts(part, class_weight, label_smoothing)
            losses, grads = _of_parts(peak, head, tail, part, grad is not None)
            np.copyto(loss[:, np.newaxis][block], losses, casting="same_kind")
            if grad is not None:
                grads *= scale
                np.copyto(grad[block], grads, casting="same_kind")

    @np.errstate(all="ignore")
    def softmax_grad_hess(
        self,
        x: Array,
        target: NDArray[np.int64],
        weight: Array | None,
        factor: float,
        grad: Array,
        hess: Array,
    ) -> None:
        """Write the gradient of each slice's loss, and `factor` times its second derivatives."""
        for block, peak, head, tail in _exponents.exponents(x, None, None):
            labels = target[:, np.newaxis][block]
            weights = np.ones_like(peak) if weight is None else weight[:, np.newaxis][block]
            values, correction, others = _shares_and_others(head, tail)
            values += correction
            second = values * others
            second *= weights * factor
            np.copyto(hess[block], second, casting="same_kind")
            np.copyto(grad[block], _minus_one_hot(values, others, labels, weights), "same_kind")

    @np.errstate(all="ignore")
    def softmax_backward(self, grad: Array, y: Array, out: Array) -> None:
        """Write y (grad - sum(grad y)) over axis 1 to `out`, which may be either of the two."""
        for block in _exponents.blocks(y.shape):
            g, values = _widened(grad[block]), _widened(y[block])
            inner, inner_tail = _compensated.total(*_compensated.product(g, values))
            head, tail = _compensated.difference(g, inner)
            tail -= inner_tail
            head += tail
            head *= values
            np.copyto(out[block], head, casting="same_kind")

    @np.errstate(all="ignore")
    def log_softmax_backward(self, grad: Array, log_y: Array, out: Array) -> None:
        """Write grad - exp(log_y) sum(grad) over axis 1 to `out`, which may be either of the two.

        With y = exp(log_y) it is grad (1 - y) - y (sum(grad) - grad), in which nothing cancels
        where a single gradient stands at a value near 1.
        """
        for block in _exponents.blocks(log_y.shape):
            g, logarithms = _widened(grad[block]), _widened(log_y[block])
            total, total_tail = _compensated.total(g)
            others, tail = _compensated.difference(total, g)
            tail += total_tail
            others += tail
            others *= np.exp(logarithms)
            g = -np.expm1(logarithms) * g
            g -= others
            np.copyto(out[block], g, casting="same_kind")


def _widened(part: Array) -> Array:
    return part.astype(np.float64) if part.dtype == np.float32 else part


def _weighted_parts(part: Array, class_weight: Array | None, label_smoothing: float) -> Array:
    """Targets, smoothed and times the weights of their classes, to within an ULP."""
    if label_smoothing:
        smoothing = part.dtype.type(label_smoothing)
        part, tail = _compensated.product(part, 1 - smoothing)
        part, error = _compensated.difference(part, -smoothing / part.shape[1])
        tail += error
    else:
        tail = np.zeros_like(part)
    if class_weight is not None:
        weight = class_weight[:, np.newaxis]
        tail *= weight
        part, error = _compensated.product(part, weight)
        tail += error
    np.copyto(tail, 0, where=part == 0)
    part = part + tail
    return part


def _of_labels(
    peak: Array, head: Array, tail: Array | None, labels: Array, weight: Array, with_grad: bool
) -> tuple[Array, Array]:
    """The loss of one class for each slice, and its gradient."""
    tail_of = 0 if tail is None else np.take_along_axis(tail, labels, axis=1)
    losses = _exponents.log_sum(peak, head, tail) - tail_of
    losses -= np.take_along_axis(head, labels, axis=1)
    np.copyto(losses, 0, where=(weight == 0) & np.isinf(losses))
    losses *= weight
    if not with_grad:
        return losses, losses
    values, correction, others = _shares_and_others(head, tail)
    values += correction
    return losses, _minus_one_hot(values, others, labels, weight)


def _of_parts(
    peak: Array, head: Array, tail: Array | None, part: Array, with_grad: bool
) -> tuple[Array, Array]:
    """The loss of every class, times its part, summed for each slice, and the gradient."""
    logarithms = _exponents.log_sum(peak, head, tail) - (0 if tail is None else tail) - head
    np.copyto(logarithms, 0, where=(part == 0) & np.isinf(logarithms))
    losses, error = _compensated.total(*_compensated.product(logarithms, part))
    losses += error
    if not with_grad:
        return losses, losses
    values, correction, others = _shares_and_others(head, tail)
    rest_of_parts = _total_of_others(part)
    towards, towards_tail = _compensated.product(values, rest_of_parts)
    away, away_tail = _compensated.product(others, part)
    grads, tail = _compensated.difference(towards, away)
    tail += towards_tail - away_tail
    tail += correction * rest_of_parts
    grads += tail
    return losses, grads


def _shares_and_others(head: Array, tail: Array | None) -> tuple[Array, Array | int, Array]:
    """The softmax as a sum of two, and 1 minus it, each to its own last digits."""
    terms = np.exp(head)
    whole, fraction = _exponents.total(terms, tail)
    rest = _exponents.all_but_one(head, tail, whole, fraction)
    values, correction = _exponents.shares(
        terms, None if tail is None else tail.copy(), whole, fraction
    )
    small = 0 if correction is None else correction
    # Nothing but a largest element is more than one half.
    return values, small, np.where(head == 0, rest / (1 + rest), 1 - values - small)


def _minus_one_hot(values: Array, others: Array, labels: Array, weight: Array) -> Array:
    """The softmax minus 1 at the label, times the weight of the slice, overwriting the softmax."""
    np.put_along_axis(values, labels, -np.take_along_axis(others, labels, axis=1), axis=1)
    values *= weight
    return values


def _total_of_others(part: Array) -> Array:
    """For each element, the sum of all the others over axis 1, if none is negative."""
    total, tail = _compensated.total(part)
    others = total - part
    others += tail
    return others
