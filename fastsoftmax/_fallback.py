"""The kernels in NumPy: for where the compiled ones do not exist, and for what they do not cover.

Every result is within 3 ULP. float32 is computed in float64 and rounded once. In float64 and
longdouble, where there is nothing wider, the rounding errors that would be magnified are carried
along as a second number: that of x - max, which the exponential would multiply by |x - max|, and
that of the division by the temperature.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax import _complex, _exponents, _fallback_losses, _weighted

Array = NDArray[Any]


class Kernels(_fallback_losses.Kernels):
    """The interface of `_core.Kernels`, and beyond it longdouble, complex, any temperature."""

    def __init__(self, name: str = "numpy") -> None:
        self.name = name
        self.dtypes: tuple[str, ...] = ("float32", "float64")

    @np.errstate(all="ignore")
    def convert(self, source: Array, target: Array) -> bool:
        """Copy `source` to `target`, of the same shape; False if `numpy.copyto` does as well.

        That takes 50 ns for each number that is inexact as a subnormal float16, because it sets the
        processor's flags. Here, such numbers are rounded by an addition beforehand.
        """
        if target.dtype != np.float16 or source.dtype.type not in (np.float32, np.float64):
            return False
        info = np.finfo(source.dtype)
        smallest = np.finfo(np.float16)
        # So large that its spacing is that of subnormal numbers.
        shift = source.dtype.type(1.5 * float(smallest.smallest_subnormal) / float(info.eps))
        with np.nditer(
            [source, target],
            ["external_loop", "buffered", "zerosize_ok"],
            [["readonly"], ["writeonly"]],
            [info.dtype, target.dtype],
        ) as blocks:
            for block, out in blocks:
                on_grid = np.copysign((block + shift) - shift, block)
                is_small = np.abs(block) < smallest.smallest_normal
                np.copyto(out, np.where(is_small, on_grid, block), casting="unsafe")
        return True

    @np.errstate(all="ignore")
    def softmax(
        self,
        x: Array,
        out: Array,
        temperature: NDArray[np.float64] | None,
        where: NDArray[np.bool_] | None,
    ) -> None:
        """Write softmax(x / temperature) over axis 1 to `out`; masked elements are 0."""
        if x.dtype.kind == "c":
            return _complex.softmax(x, out, temperature, where)
        for block, _, head, tail in _exponents.exponents(x, temperature, where):
            terms = np.exp(head)
            if tail is None:
                np.divide(
                    terms, terms.sum(axis=1, keepdims=True), out=out[block], casting="same_kind"
                )
            else:
                total = _exponents.total(terms, tail)
                _exponents.store(*_exponents.shares(terms, tail, *total), out[block])
        if where is not None:
            np.copyto(out, 0, where=~where)

    @np.errstate(all="ignore")
    def log_softmax(
        self,
        x: Array,
        out: Array,
        temperature: NDArray[np.float64] | None,
        where: NDArray[np.bool_] | None,
    ) -> None:
        """Write log(softmax(x / temperature)) over axis 1 to `out`; masked elements are -inf."""
        if x.dtype.kind == "c":
            return _complex.log_softmax(x, out, temperature, where)
        for block, peak, head, tail in _exponents.exponents(x, temperature, where):
            log_total = _exponents.log_sum(peak, head, tail)
            _exponents.store(*_exponents.log_shares(head, tail, log_total), out[block])
        if where is not None:
            np.copyto(out, -np.inf, where=~where)

    @np.errstate(all="ignore")
    def logsumexp(self, x: Array, out: Array, where: NDArray[np.bool_] | None) -> None:
        """Write log(sum(exp(x))) over axis 1 to `out`; masked elements count for nothing."""
        if x.shape[1] == 0:
            out.fill(-np.inf)
        for block, peak, head, tail in _exponents.exponents(x, None, where):
            log_total = _exponents.log_sum(peak, head, tail)
            np.add(peak, log_total, out=out[:, np.newaxis][block], casting="same_kind")

    @np.errstate(all="ignore")
    def softmax_logsumexp(
        self, x: Array, out: Array, log_sum: Array, where: NDArray[np.bool_] | None
    ) -> None:
        """Write softmax(x) over axis 1 to `out`, and log(sum(exp(x))) to the 2-D `log_sum`."""
        if x.shape[1] == 0:
            log_sum.fill(-np.inf)
        for block, peak, head, tail in _exponents.exponents(x, None, where):
            terms = np.exp(head)
            total = _exponents.total(terms, tail)
            log_total = np.log1p(_exponents.all_but_one(head, tail, *total))
            np.copyto(log_total, 0, where=np.isinf(peak))
            _exponents.store(peak, log_total, log_sum[:, np.newaxis][block])
            _exponents.store(*_exponents.shares(terms, tail, *total), out[block])
        if where is not None:
            np.copyto(out, 0, where=~where)

    @np.errstate(all="ignore")
    def predict(self, x: Array, index: NDArray[np.intp], confidence: Array | None) -> None:
        """Write argmax(x) over axis 1, not empty, to the 2-D `index`, its softmax beside it."""
        np.argmax(x, axis=1, out=index)
        if confidence is None:
            return
        for block, _, head, tail in _exponents.exponents(x, None, None):
            whole, fraction = _exponents.total(np.exp(head), tail)
            ones, zeros = np.ones_like(whole), None if tail is None else np.zeros_like(whole)
            largest = _exponents.shares(ones, zeros, whole, fraction)
            _exponents.store(*largest, confidence[:, np.newaxis][block])

    @np.errstate(all="ignore")
    def top_k(self, x: Array, values: Array, indices: NDArray[np.intp], log: bool) -> None:
        """Write the largest softmax or log-softmax values over axis 1, and where they stand.

        `values` and `indices` are (outer, k, inner). The order is descending; equal logits are
        in that of their indices, and NaN counts as the largest.
        """
        for block, peak, head, tail in _exponents.exponents(x, None, None):
            chosen = _largest(x[block], values.shape[1])
            indices[block] = chosen
            head_of = np.take_along_axis(head, chosen, axis=1)
            tail_of = None if tail is None else np.take_along_axis(tail, chosen, axis=1)
            if log:
                log_total = _exponents.log_sum(peak, head, tail)
                result = _exponents.log_shares(head_of, tail_of, log_total)
            else:
                total = _exponents.total(np.exp(head), tail)
                result = _exponents.shares(np.exp(head_of), tail_of, *total)
            _exponents.store(*result, values[block])

    def weighted_logsumexp(
        self, x: Array, weights: Array, log_sum: Array, sign: NDArray[np.intp]
    ) -> None:
        """Leave all slices to `_weighted`."""
        sign.fill(_weighted.UNKNOWN_SIGN)

    # There is no quicker way than the general one here.

    def quick(self, general: Callable[..., Any]) -> Callable[..., Any]:
        return general

    def predict_lane(self, logits: object, axis: object, with_confidence: object) -> None:
        return None

    def top_k_lane(self, logits: object, k: object, axis: object, log: object) -> None:
        return None

    def softmax_logsumexp_lane(self, x: object, axis: object, out: object) -> None:
        return None

    def cross_entropy_lane(
        self,
        logits: object,
        target: object,
        weight: object,
        axis: object,
        ignore_index: object,
        label_smoothing: object,
        reduction: object,
        with_grad: object,
    ) -> None:
        return None

    def nll_loss_lane(
        self,
        log_probs: object,
        target: object,
        weight: object,
        axis: object,
        ignore_index: object,
        reduction: object,
    ) -> None:
        return None

    def softmax_grad_hess_lane(
        self, logits: object, target: object, weight: object, factor: object
    ) -> None:
        return None

    def softmax_backward_lane(self, grad: object, y: object, axis: object, out: object) -> None:
        return None

    def log_softmax_backward_lane(
        self, grad: object, log_y: object, axis: object, out: object
    ) -> None:
        return None


def _largest(x: Array, k: int) -> NDArray[np.intp]:
    """Where the k largest elements over axis 1 stand, in descending order, equal ones in theirs."""
    rows = np.moveaxis(x, 1, -1)
    if k == 0 or np.isnan(rows).any():
        order = np.lexsort((-rows, ~np.isnan(rows)))[..., :k]
    else:
        length = rows.shape[-1]
        least = np.partition(rows, length - k)[..., length - k, np.newaxis]
        is_equal = rows == least
        is_taken = rows > least
        missing = k - is_taken.sum(axis=-1, keepdims=True)
        is_taken |= is_equal & (is_equal.cumsum(axis=-1) <= missing)
        taken = is_taken.nonzero()[-1].reshape(*rows.shape[:-1], k)
        descending = np.argsort(-np.take_along_axis(rows, taken, -1), axis=-1, kind="stable")
        order = np.take_along_axis(taken, descending, -1)
    return np.moveaxis(order, -1, 1)
