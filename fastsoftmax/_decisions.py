"""The public functions that tell the likeliest classes, without writing down a softmax."""

from __future__ import annotations  # for help(), which would spell out what ArrayLike stands for

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastsoftmax import _arguments, _workers
from fastsoftmax._front import Array, Front, as_source, reduced_shape, rounded
from fastsoftmax._layout import Layout


class Decisions(Front):
    """`predict` and `top_k` on one backend."""

    def predict(
        self,
        logits: ArrayLike,
        axis: Any = -1,
        *,
        return_confidence: bool = False,
        workers: int | None = None,
    ) -> Any:
        r"""Index of the largest logit along an axis, and its softmax if wanted.

        Softmax keeps the order of the logits, so the class that it gives the largest value is
        the one of the largest logit, and no softmax need be computed to find it.

        Parameters
        ----------
        logits : array_like
            Real numbers.
        axis : int or None, optional
            The axis along which the classes lie, the last by default. None stands for the
            flattened array.
        return_confidence : bool, optional
            Whether to return the softmax of the largest logit too. By default it is not computed.
        workers : int, optional
            At most so many threads do the work, as in `set_workers`, for this call alone. The
            NumPy backend uses one.

        Returns
        -------
        index : ndarray of intp, or scalar
            What `numpy.argmax` returns, of the shape of `logits` without the axis: the first of
            equal ones, or the first NaN.
        confidence : ndarray or scalar
            Only with ``return_confidence=True``: the softmax there, in the floating dtype of
            `logits` (float64 for integers). It is NaN if the slice has NaN or +inf, or nothing
            but -inf.

        Raises
        ------
        TypeError
            If `logits` does not consist of real numbers or is a masked array or a matrix; if
            `axis` or `workers` is not an integer.
        ValueError
            If the slices have no elements; if `workers` is 0, or negative and no CPU is left.
        numpy.exceptions.AxisError
            If the axis is out of range.

        See Also
        --------
        top_k : the largest few.
        softmax : all of the values.

        Notes
        -----
        The confidence is within 3 units in the last place. That it is a probability of being right
        is not said: see `fastsoftmax.calibration`.

        Examples
        --------
        >>> import fastsoftmax
        >>> logits = [[2.0, 1.0, 0.0], [0.0, 3.0, 3.0]]
        >>> fastsoftmax.predict(logits)
        array([0, 1])
        >>> index, confidence = fastsoftmax.predict(logits, return_confidence=True)
        >>> confidence.round(4)
        array([0.6652, 0.4879])
        """
        if workers is not None:
            with _workers.set_workers(workers):
                return self.predict(logits, axis, return_confidence=return_confidence)
        result = self._kernels.predict_lane(logits, axis, bool(return_confidence))
        if result is not None:
            return result
        array, natural, axis = _one_axis(logits, axis)
        if array.shape[axis] == 0:
            raise ValueError(f"logits has shape {array.shape}, need classes along axis {axis}")
        # Integers are compared as they are: large ones may be equal as float64.
        if array.dtype.kind in "biu":
            index = np.argmax(array, axis)
            if not return_confidence:
                return index
        work = _arguments.work_dtype(natural, natural)
        layout = Layout(array, (axis,))
        shape = reduced_shape(array.shape, (axis,))
        outer, _, inner = layout.shape
        found = np.empty((outer, inner), np.intp)
        confidence = np.empty((outer, inner), work) if return_confidence else None
        self._kernels_for(work).predict(as_source(array, layout, work), found, confidence)
        if array.dtype.kind not in "biu":
            index = rounded(layout.from_slices(found).reshape(shape), found.dtype, None)
        if confidence is None:
            return index
        return index, rounded(layout.from_slices(confidence).reshape(shape), natural, None)

    def top_k(
        self,
        logits: ArrayLike,
        k: int,
        axis: Any = -1,
        *,
        log: bool = False,
        workers: int | None = None,
    ) -> tuple[Any, Any]:
        r"""The k largest softmax values along an axis, and where they stand.

        Parameters
        ----------
        logits : array_like
            Real numbers. Integers and bools are taken as float64.
        k : int
            How many values to return, at most as many as there are classes.
        axis : int or None, optional
            The axis along which the classes lie, the last by default. None stands for the
            flattened array.
        log : bool, optional
            Whether to return values of log-softmax. By default they are of softmax.
        workers : int, optional
            At most so many threads do the work, as in `set_workers`, for this call alone. The
            NumPy backend uses one.

        Returns
        -------
        values : ndarray
            In descending order, in the floating dtype of `logits`, and of its shape with `k` in
            place of the axis.
        indices : ndarray of intp
            Where on the axis they stand, of the same shape. Equal logits come in the order of
            their indices.

        Raises
        ------
        TypeError
            If `logits` does not consist of real numbers or is a masked array or a matrix; if `k`,
            `axis` or `workers` is not an integer.
        ValueError
            If `k` is negative or more than there are classes; if `workers` is 0, or negative and no
            CPU is left.
        numpy.exceptions.AxisError
            If the axis is out of range.

        See Also
        --------
        predict : the largest alone.
        softmax, log_softmax : all of the values.

        Notes
        -----
        The values are shares of the sum over all classes, not over the k that are returned, and
        within 3 units in the last place. In a slice with NaN, every value is NaN, and NaN comes
        first.

        Examples
        --------
        >>> import fastsoftmax
        >>> values, indices = fastsoftmax.top_k([0.0, 3.0, 1.0, 3.0], 3)
        >>> values.round(4)
        array([0.4576, 0.4576, 0.0619])
        >>> indices
        array([1, 3, 2])
        """
        if workers is not None:
            with _workers.set_workers(workers):
                return self.top_k(logits, k, axis, log=log)
        quick = self._kernels.top_k_lane(logits, k, axis, log)
        if quick is not None:
            return quick
        array, natural, axis = _one_axis(logits, axis)
        k = _arguments.as_count("k", k, 0, array.shape[axis])
        work = _arguments.work_dtype(natural, natural)
        layout = Layout(array, (axis,))
        outer, _, inner = layout.shape
        values = np.empty((outer, k, inner), work)
        indices = np.empty((outer, k, inner), np.intp)
        if k > 0:
            self._kernels_for(work).top_k(as_source(array, layout, work), values, indices, log)
        found = layout.from_elements(values, k)
        return rounded(found, natural, None), layout.from_elements(indices, k)


def _one_axis(logits: ArrayLike, axis: Any) -> tuple[Array, np.dtype[Any], int]:
    """The logits as an array of one dimension at least, their dtype, and the axis."""
    array = _arguments.as_array("logits", logits)
    natural = _arguments.real_dtype("logits", array.dtype)
    if axis is None:
        array, axis = array.reshape(-1), 0
    elif array.ndim == 0:
        array = array.reshape(1)  # NumPy, too, lets a scalar have an axis 0
    return array, natural, _arguments.as_axis(axis, array.ndim)
