"""The public functions that training needs: losses of classes, and gradients."""

from __future__ import annotations  # for help(), which would spell out what ArrayLike stands for

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsoftmax import _arguments, _compensated, _workers
from fastsoftmax._front import (
    Array,
    Front,
    Place,
    array_or_scalar,
    as_source,
    reduced_shape,
    rounded,
)
from fastsoftmax._layout import Layout

REDUCTIONS = ("none", "mean", "sum")


class Losses(Front):
    """The losses and gradients on one backend."""

    def cross_entropy(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        weight: ArrayLike | None = None,
        *,
        axis: Any = -1,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        return_grad: bool = False,
        workers: int | None = None,
    ) -> Any:
        r"""Cross-entropy of the softmax of logits and the classes that are the case.

        .. math:: \ell = -\sum_c w_c\, t_c \log \mathrm{softmax}(x)_c

        Parameters
        ----------
        logits : array_like
            Real numbers :math:`x`. Integers and bools are taken as float64.
        target : array_like
            Of an integer dtype: the class of each slice, in the shape of `logits` without the
            axis, where :math:`t` is 1. Of a floating dtype: the probabilities :math:`t` of all
            classes, in the shape of `logits`; they are not checked, and need not sum to 1. They are
            rounded to the dtype of `logits`, or to float32 if that has 16 bits.
        weight : array_like, optional
            The weight :math:`w_c` of each class, one-dimensional, by default 1.
        axis : int, optional
            The axis along which the classes lie, the last by default (in PyTorch and ONNX it is
            the second one).
        ignore_index : int, optional
            The label of slices that have no loss and do not count; it need not be a class. It
            means nothing to probabilities.
        label_smoothing : float, optional
            The part :math:`\varepsilon` of every target, from 0 to 1, that is spread evenly over
            all C classes: :math:`t_c` becomes :math:`(1 - \varepsilon) t_c + \varepsilon / C`.
        reduction : {"mean", "sum", "none"}, optional
            What becomes of the losses of the slices. The mean of labels is the sum divided by the
            sum of the weights :math:`w` of the labels that are not ignored; the mean of
            probabilities is the sum divided by the number of slices.
        return_grad : bool, optional
            Whether to return the gradient too.
        workers : int, optional
            At most so many threads do the work, as in `set_workers`, for this call alone. The
            NumPy backend uses one.

        Returns
        -------
        loss : ndarray or scalar
            In the floating dtype of `logits`: a scalar, or with ``reduction="none"`` the losses in
            the shape of `logits` without the axis. The mean of nothing is NaN.
        grad : ndarray
            Only with ``return_grad=True``: the gradient of the loss with respect to `logits`, and
            with ``reduction="none"`` that of the sum of the losses. Of their shape and memory
            layout, and the dtype of the loss.

        Raises
        ------
        TypeError
            If `logits` or `weight` does not consist of real numbers, or `target` neither of
            integers nor of floating-point numbers; if one is a masked array or a matrix; if
            `axis`, `ignore_index` or `workers` is not an integer, or `label_smoothing` not a
            number.
        ValueError
            If `target` or `weight` has the wrong shape; if a weight is negative or not finite; if
            `label_smoothing` or `reduction` is none of the above; if `workers` is 0, or negative
            and no CPU is left.
        IndexError
            If a label is neither a class nor `ignore_index`.
        numpy.exceptions.AxisError
            If the axis is out of range.

        See Also
        --------
        nll_loss : the same from log-probabilities.
        log_softmax : what the loss is made of.

        Notes
        -----
        The semantics are those of PyTorch's ``cross_entropy`` and of the ONNX operator
        SoftmaxCrossEntropyLoss, with one exception: :math:`0 \cdot \infty` is 0, so that a class of
        target or weight 0 may have the logit -inf.

        Losses and gradients are within 3 units in the last place where nothing cancels. A loss is
        :math:`\log(1 + r) - (x_t - \max x)` with the sum r of all exponentials but the largest,
        and the gradient at the label is computed from the sum of the others [1]_: where the label
        has nearly all of the softmax, both keep their digits. Sums of gradients over the classes
        vanish to within rounding.

        References
        ----------
        .. [1] P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp
           and softmax functions", IMA J. Numer. Anal. 41 (2021).

        Examples
        --------
        >>> import fastsoftmax
        >>> logits = [[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
        >>> print(fastsoftmax.cross_entropy(logits, [0, 2]).round(6))
        0.753109
        >>> loss, grad = fastsoftmax.cross_entropy(logits, [0, 2], return_grad=True)
        >>> grad.round(4)
        array([[-0.1674,  0.1224,  0.045 ],
               [ 0.1667,  0.1667, -0.3333]])

        The loss of a class that is all but certain:

        >>> print(fastsoftmax.cross_entropy([40.0, 0.0], 0))
        4.248354255291589e-18
        """
        if workers is not None:
            with _workers.set_workers(workers):
                return self.cross_entropy(
                    logits,
                    target,
                    weight,
                    axis=axis,
                    ignore_index=ignore_index,
                    label_smoothing=label_smoothing,
                    reduction=reduction,
                    return_grad=return_grad,
                )
        quick = self._kernels.cross_entropy_lane(
            logits,
            target,
            weight,
            axis,
            ignore_index,
            label_smoothing,
            reduction,
            bool(return_grad),
        )
        if quick is not None:
            return quick
        array = _arguments.as_array("logits", logits)
        natural = _arguments.real_dtype("logits", array.dtype)
        work = _arguments.work_dtype(natural, natural)
        axis = _arguments.as_axis(axis, array.ndim)
        shape, classes = reduced_shape(array.shape, (axis,)), array.shape[axis]
        class_weight = _arguments.as_weight("weight", weight, classes, "class", work)
        smoothing = _arguments.as_label_smoothing(label_smoothing)
        ignored = _arguments.as_integer("ignore_index", ignore_index)
        reduction = _arguments.as_choice("reduction", reduction, REDUCTIONS)
        targets = _arguments.as_array("target", target)
        is_probable = _arguments.is_floating(targets.dtype)
        if is_probable:
            if targets.shape != array.shape:
                raise ValueError(
                    f"target has shape {targets.shape}, need {array.shape} for probabilities; "
                    "class labels need an integer dtype"
                )
            divisor = _divisor_of_mean(np.prod(shape, dtype=np.float64))
        else:
            targets = _arguments.as_labels("target", targets, shape, classes, ignored)
            divisor = _divisor_of_mean(_total_weight(targets, class_weight))
            if reduction == "mean":
                class_weight, divisor = _near_1(class_weight, divisor)
        scale = 1.0
        if reduction == "mean":
            scale = np.promote_types(work, np.float64).type(1) / divisor

        place = None
        if return_grad:
            result = np.empty_like(array, natural, subok=False)
            place = Place(result, (axis,), work)
            layout, source = place.layout, place.source(array)
        else:
            layout = Layout(array, (axis,))
            source = as_source(array, layout, work)
        losses = np.empty((layout.shape[0], layout.shape[2]), work)
        if is_probable:
            kernel, spread = "cross_entropy_probabilities", as_source(targets, layout, work)
        else:
            kernel, spread = "cross_entropy_labels", layout.slices(np.expand_dims(targets, axis))
        getattr(self._kernels_for(work), kernel)(
            source, spread, class_weight, smoothing, losses, place and place.target, scale
        )
        losses = layout.from_slices(losses).reshape(shape)
        loss = rounded(_reduced(losses, divisor, reduction), natural, None)
        if place is None:
            return loss
        place.deliver()
        return loss, result

    def nll_loss(
        self,
        log_probs: ArrayLike,
        target: ArrayLike,
        weight: ArrayLike | None = None,
        *,
        axis: Any = -1,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> Any:
        r"""Negative log-likelihood of the classes that are the case, from log-probabilities.

        Parameters
        ----------
        log_probs : array_like
            Logarithms of probabilities, such as `log_softmax` returns. Integers and bools are
            taken as float64.
        target : array_like of int
            The class of each slice, in the shape of `log_probs` without the axis.
        weight : array_like, optional
            The weight of each class, one-dimensional, by default 1.
        axis : int, optional
            The axis along which the classes lie, the last by default (in PyTorch and ONNX it is
            the second one).
        ignore_index : int, optional
            The label of slices that have no loss and do not count; it need not be a class.
        reduction : {"mean", "sum", "none"}, optional
            What becomes of the losses of the slices. The mean is the sum divided by the sum of the
            weights of the labels that are not ignored.

        Returns
        -------
        ndarray or scalar
            In the floating dtype of `log_probs`: a scalar, or with ``reduction="none"`` the losses
            in the shape of `log_probs` without the axis. The mean of nothing is NaN.

        Raises
        ------
        TypeError
            If `log_probs` or `weight` does not consist of real numbers, or `target` of integers; if
            one is a masked array or a matrix; if `axis` or `ignore_index` is not an integer.
        ValueError
            If `target` or `weight` has the wrong shape; if a weight is negative or not finite; if
            `reduction` is none of the above.
        IndexError
            If a label is neither a class nor `ignore_index`.
        numpy.exceptions.AxisError
            If the axis is out of range.

        See Also
        --------
        cross_entropy : the same from logits, which needs no array of log-probabilities.

        Notes
        -----
        The semantics are those of PyTorch's ``nll_loss`` and of the ONNX operator
        NegativeLogLikelihoodLoss, with one exception: a class of weight 0 has no loss even if its
        log-probability is -inf.

        Examples
        --------
        >>> import fastsoftmax
        >>> log_probs = fastsoftmax.log_softmax([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], axis=-1)
        >>> print(fastsoftmax.nll_loss(log_probs, [0, 2]).round(6))
        0.753109
        """
        loss = self._kernels.nll_loss_lane(log_probs, target, weight, axis, ignore_index, reduction)
        if loss is not None:
            return loss
        array = _arguments.as_array("log_probs", log_probs)
        natural = _arguments.real_dtype("log_probs", array.dtype)
        work = _arguments.work_dtype(natural, natural)
        axis = _arguments.as_axis(axis, array.ndim)
        shape, classes = reduced_shape(array.shape, (axis,)), array.shape[axis]
        class_weight = _arguments.as_weight("weight", weight, classes, "class", work)
        ignored = _arguments.as_integer("ignore_index", ignore_index)
        reduction = _arguments.as_choice("reduction", reduction, REDUCTIONS)
        targets = _arguments.as_array("target", target)
        labels = _arguments.as_labels("target", targets, shape, classes, ignored)
        divisor = _divisor_of_mean(_total_weight(labels, class_weight))
        if reduction == "mean":
            class_weight, divisor = _near_1(class_weight, divisor)
        losses = np.zeros(shape, np.promote_types(work, np.float64))
        if classes > 0:
            labels_or_0 = np.maximum(labels, 0)
            chosen = np.take_along_axis(array, np.expand_dims(labels_or_0, axis), axis)
            with np.errstate(all="ignore"):
                np.subtract(0, chosen.squeeze(axis), out=losses, dtype=losses.dtype)
                is_void = labels < 0
                if class_weight is not None:
                    weights = class_weight[labels_or_0]
                    is_void |= (weights == 0) & np.isinf(losses)
                    losses *= weights
            np.copyto(losses, 0, where=is_void)
        return rounded(_reduced(losses, divisor, reduction), natural, None)

    def softmax_backward(
        self,
        grad: ArrayLike,
        y: ArrayLike,
        axis: Any = -1,
        *,
        out: Array | None = None,
        workers: int | None = None,
    ) -> Any:
        r"""Gradient with respect to the logits, from that with respect to their softmax.

        .. math:: \frac{\partial L}{\partial x_i} = y_i \Bigl(g_i - \sum_j g_j y_j\Bigr)

        Parameters
        ----------
        grad : array_like
            The gradient :math:`g` with respect to `y`: real numbers.
        y : array_like
            The softmax of the logits, of the same shape: what `softmax` returned.
        axis : int, tuple of ints or None, optional
            The axis or axes that were normalised together, the last by default.
        out : ndarray, optional
            Where to write the result: of its shape and dtype. It may be `grad` or `y` itself, or
            overlap them.
        workers : int, optional
            At most so many threads do the work, as in `set_workers`, for this call alone. The
            NumPy backend uses one.

        Returns
        -------
        ndarray or scalar
            `out` if it is given, else a new array of the shape and memory layout of `y`, in the
            common floating dtype of the two, or a NumPy scalar if they are numbers.

        Raises
        ------
        TypeError
            If `grad` or `y` does not consist of real numbers or is a masked array or a matrix; if
            `out` has another dtype; if `workers` is not an integer.
        ValueError
            If the shapes differ; if an axis is repeated; if `out` is read-only or has another
            shape; if `workers` is 0, or negative and no CPU is left.
        numpy.exceptions.AxisError
            If an axis is out of range. Whatever argument is wrong, all are left
            as they were.

        See Also
        --------
        log_softmax_backward : the same for log-softmax.
        cross_entropy : gives the gradient of the loss itself.

        Examples
        --------
        >>> import fastsoftmax
        >>> y = fastsoftmax.softmax([2.0, 1.0, 0.0])
        >>> fastsoftmax.softmax_backward([1.0, 0.0, 0.0], y).round(4)
        array([ 0.2227, -0.1628, -0.0599])
        """
        if workers is not None:
            with _workers.set_workers(workers):
                return self.softmax_backward(grad, y, axis, out=out)
        result = self._kernels.softmax_backward_lane(grad, y, axis, out)
        if result is not None:
            return result
        return self._backward("softmax_backward", grad, "y", y, axis, out)

    def log_softmax_backward(
        self,
        grad: ArrayLike,
        log_y: ArrayLike,
        axis: Any = -1,
        *,
        out: Array | None = None,
        workers: int | None = None,
    ) -> Any:
        r"""Gradient with respect to the logits, from that with respect to their log-softmax.

        .. math:: \frac{\partial L}{\partial x_i} = g_i - e^{\log y_i} \sum_j g_j

        Parameters
        ----------
        grad : array_like
            The gradient :math:`g` with respect to `log_y`: real numbers.
        log_y : array_like
            The log-softmax of the logits, of the same shape: what `log_softmax` returned.
        axis : int, tuple of ints or None, optional
            The axis or axes that were normalised together, the last by default.
        out : ndarray, optional
            Where to write the result: of its shape and dtype. It may be `grad` or `log_y` itself,
            or overlap them.
        workers : int, optional
            At most so many threads do the work, as in `set_workers`, for this call alone. The
            NumPy backend uses one.

        Returns
        -------
        ndarray or scalar
            `out` if it is given, else a new array of the shape and memory layout of `log_y`, in the
            common floating dtype of the two, or a NumPy scalar if they are numbers.

        Raises
        ------
        TypeError
            If `grad` or `log_y` does not consist of real numbers or is a masked array or a matrix;
            if `out` has another dtype; if `workers` is not an integer.
        ValueError
            If the shapes differ; if an axis is repeated; if `out` is read-only or has another
            shape; if `workers` is 0, or negative and no CPU is left.
        numpy.exceptions.AxisError
            If an axis is out of range. Whatever argument is wrong, all are left
            as they were.

        See Also
        --------
        softmax_backward : the same for softmax.
        cross_entropy : gives the gradient of the loss itself.

        Examples
        --------
        The gradient of the loss of class 0:

        >>> import fastsoftmax
        >>> log_y = fastsoftmax.log_softmax([2.0, 1.0, 0.0])
        >>> fastsoftmax.log_softmax_backward([-1.0, 0.0, 0.0], log_y).round(4)
        array([-0.3348,  0.2447,  0.09  ])
        """
        if workers is not None:
            with _workers.set_workers(workers):
                return self.log_softmax_backward(grad, log_y, axis, out=out)
        result = self._kernels.log_softmax_backward_lane(grad, log_y, axis, out)
        if result is not None:
            return result
        return self._backward("log_softmax_backward", grad, "log_y", log_y, axis, out)

    def softmax_grad_hess(
        self,
        logits: ArrayLike,
        target: ArrayLike,
        weight: ArrayLike | None = None,
        *,
        factor: float | None = None,
        workers: int | None = None,
    ) -> tuple[Array, Array]:
        r"""Gradient and diagonal of the Hessian of each sample's cross-entropy, for boosting.

        .. math:: g_{ic} = w_i (p_{ic} - t_{ic}), \qquad h_{ic} = f w_i\, p_{ic} (1 - p_{ic})

        Parameters
        ----------
        logits : array_like
            The raw scores, of shape (samples, classes), whose softmax is :math:`p`. Integers and
            bools are taken as float64.
        target : array_like of int
            The class of each sample, of shape (samples,), where :math:`t` is 1.
        weight : array_like, optional
            The weight :math:`w_i` of each sample, of shape (samples,), by default 1.
        factor : float, optional
            The positive factor :math:`f` of the second derivatives, by default 1.
        workers : int, optional
            At most so many threads do the work, as in `set_workers`, for this call alone. The
            NumPy backend uses one.

        Returns
        -------
        grad, hess : ndarray
            The first and second derivatives, of the shape and memory layout of `logits` and in
            their floating dtype.

        Raises
        ------
        TypeError
            If `logits` or `weight` does not consist of real numbers, or `target` of integers; if
            one is a masked array or a matrix; if `factor` is not a number, or `workers` not an
            integer.
        ValueError
            If an argument has the wrong shape; if a weight is negative or not finite, or `factor`
            not positive and finite; if `workers` is 0, or negative and no CPU is left.
        IndexError
            If a label is not a class.

        See Also
        --------
        cross_entropy : the loss, and its gradient for all samples together.

        Notes
        -----
        XGBoost's objective ``multi:softprob`` takes the factor 2, LightGBM's ``multiclass`` the
        factor C / (C - 1) for C classes [1]_. With these, a custom objective that returns `grad`
        and `hess` grows the trees of the library's own. Both libraries grow one tree for each
        class, for which the diagonal is the whole Hessian.

        References
        ----------
        .. [1] J. H. Friedman, "Greedy function approximation: a gradient boosting machine", Ann.
           Statist. 29 (2001), section 4.6.

        Examples
        --------
        >>> import fastsoftmax
        >>> grad, hess = fastsoftmax.softmax_grad_hess([[2.0, 1.0, 0.0]], [0], factor=3 / 2)
        >>> grad.round(4)
        array([[-0.3348,  0.2447,  0.09  ]])
        >>> hess.round(4)
        array([[0.334 , 0.2773, 0.1229]])
        """
        if workers is not None:
            with _workers.set_workers(workers):
                return self.softmax_grad_hess(logits, target, weight, factor=factor)
        quick = self._kernels.softmax_grad_hess_lane(logits, target, weight, factor)
        if quick is not None:
            return quick
        array = _arguments.as_array("logits", logits)
        natural = _arguments.real_dtype("logits", array.dtype)
        work = _arguments.work_dtype(natural, natural)
        if array.ndim != 2:
            raise ValueError(f"logits has shape {array.shape}, need (samples, classes)")
        samples, classes = array.shape
        targets = _arguments.as_array("target", target)
        labels = _arguments.as_labels("target", targets, (samples,), classes)
        sample_weight = _arguments.as_weight("weight", weight, samples, "sample", work)
        multiple = 1.0 if factor is None else _arguments.as_factor("factor", factor)
        results = [np.empty_like(array, natural, subok=False) for _ in range(2)]
        places = [Place(result, (1,), work) for result in results]
        layout = places[0].layout
        self._kernels_for(work).softmax_grad_hess(
            places[0].source(array),
            layout.slices(labels[:, np.newaxis]),
            None if sample_weight is None else layout.slices(sample_weight[:, np.newaxis]),
            multiple,
            *(place.target for place in places),
        )
        for place in places:
            place.deliver()
        return results[0], results[1]

    def _backward(
        self, function: str, grad: ArrayLike, name: str, y: ArrayLike, axis: Any, out: Array | None
    ) -> Any:
        values = _arguments.as_array(name, y)
        given = _arguments.as_array("grad", grad)
        natural = _arguments.common_real_dtype(
            _arguments.real_dtype("grad", given.dtype), _arguments.real_dtype(name, values.dtype)
        )
        if given.shape != values.shape:
            raise ValueError(f"grad has shape {given.shape}, need {values.shape}, that of {name}")
        axes = _arguments.as_axes(axis, values.ndim)
        if out is None:
            result = np.empty_like(values, natural, subok=False)
        else:
            result = np.asarray(_arguments.check_out(out, values.shape, natural))
        work = _arguments.work_dtype(natural, natural)
        place = Place(result, axes, work)
        kernel = getattr(self._kernels_for(work), function)
        kernel(place.source(given), place.source(values), place.target)
        place.deliver()
        return array_or_scalar(result) if out is None else out


def _total_weight(labels: NDArray[np.int64], class_weight: Array | None) -> Any:
    """The sum of the weights of the labels that are not ignored."""
    counted = labels[labels >= 0]
    if class_weight is None:
        return np.float64(counted.size)
    counts = np.bincount(counted, minlength=class_weight.size)
    return _sum(counts * class_weight)


def _divisor_of_mean(total_weight: Any) -> Any:
    """NaN for nothing: its mean is NaN, whatever its sum."""
    return np.nan if total_weight == 0 else total_weight


def _near_1(class_weight: Array | None, total_weight: Any) -> tuple[Array | None, Any]:
    """Both divided by the power of two that brings the total near 1, which changes no mean."""
    if class_weight is None:
        return None, total_weight
    _, exponent = np.frexp(total_weight)
    with np.errstate(all="ignore"):
        return np.ldexp(class_weight, -exponent), np.ldexp(total_weight, -exponent)


def _reduced(losses: Array, divisor: Any, reduction: str) -> Array:
    """The losses, or their sum or mean, which are rounded to float64 or wider."""
    if reduction == "none":
        return losses
    with np.errstate(all="ignore"):
        total = _sum(losses.astype(np.promote_types(losses.dtype, np.float64)))
        return np.asarray(total if reduction == "sum" else total / divisor)


_FEW = 4096
"""Values that math.fsum adds in less time than NumPy needs for its calls."""


@np.errstate(all="ignore")
def _sum(values: Array) -> Any:
    """The sum of all values, rounded once, or of twice the digits and then rounded."""
    if values.dtype == np.float64 and values.size <= _FEW:
        try:
            return np.float64(math.fsum(values.reshape(-1).tolist()))
        except (OverflowError, ValueError):  # it has no finite sum
            return values.sum()
    head, tail = _compensated.total(values.reshape(1, -1))
    return (head + tail)[0, 0]
