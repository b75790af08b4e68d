"""The public functions: what they accept and what they mean, once for every backend."""

from __future__ import annotations  # for help(), which would spell out what ArrayLike stands for

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsoftmax import _arguments, _backend, _weighted, _workers
from fastsoftmax._decisions import Decisions
from fastsoftmax._front import Place, array_or_scalar, as_source, parts, reduced_shape, rounded
from fastsoftmax._layout import Layout
from fastsoftmax._losses import Losses

Array = NDArray[Any]


class Functions(Decisions, Losses):
    """The public functions on one backend."""

    def __init__(self, kernels: _backend.Kernels) -> None:
        super().__init__(kernels)
        for general in (self.softmax, self.log_softmax, self.logsumexp):
            setattr(self, general.__name__, kernels.quick(general))

    def __reduce__(self) -> str | tuple[Any, ...]:
        # The package's own functions are those of the place where they are unpickled.
        return "IN_FORCE" if self is IN_FORCE else (Functions, (self._kernels,))

    def softmax(
        self,
        x: ArrayLike,
        axis: Any = None,
        *,
        where: ArrayLike | None = None,
        temperature: ArrayLike = 1.0,
        dtype: DTypeLike | None = None,
        out: Array | None = None,
        workers: int | None = None,
    ) -> Any:
        r"""Normalised exponential of the elements along an axis.

        .. math:: \mathrm{softmax}(x)_i = \frac{e^{x_i / T}}{\sum_j e^{x_j / T}}

        Parameters
        ----------
        x : array_like
            The logits: real or complex numbers. Integers and bools are taken as float64.
        axis : int, tuple of ints or None, optional
            The axis or axes that are normalised together; None (the default) stands for all.
        where : array_like of bool, optional
            Elements to include, broadcast to the shape of `x`. The others are 0 in the result and
            do not contribute to the sum, whatever their value, NaN included.
        temperature : array_like, optional
            The positive number :math:`T`, 1 by default, or an array of them that broadcasts to the
            shape of `x` with the reduced axes of size one. It does not affect the result's dtype.
        dtype : dtype_like, optional
            The floating dtype of the result; by default that of `x`. The work is done in the wider
            of the two, float16 and bfloat16 in float32, and rounded once.
        out : ndarray, optional
            Where to write the result: of its shape and dtype. It may be `x` itself or overlap it.
        workers : int, optional
            At most so many threads do the work, as in `set_workers`, for this call alone. The
            NumPy backend uses one.

        Returns
        -------
        ndarray or scalar
            `out` if it is given, else a new array of the shape and memory layout of `x`, or a
            NumPy scalar if `x` is one.

        Raises
        ------
        TypeError
            If `x` does not consist of numbers or is a masked array or a matrix; if `where` is not
            boolean, `temperature` not real, or `dtype` not floating; if `out` has another dtype; if
            `workers` is not an integer.
        ValueError
            If an axis is repeated; if `where` or `temperature` does not broadcast, or a
            temperature is not positive and finite; if `out` is read-only or has another shape; if
            `workers` is 0, or negative and no CPU is left.
        numpy.exceptions.AxisError
            If an axis is out of range. Whatever argument is wrong, `x` and `out`
            are left as they were.

        See Also
        --------
        log_softmax : the logarithm of the same, which does not underflow.
        logsumexp : the logarithm of the sum.

        Notes
        -----
        float32 and float64 results are within 3 units in the last place of the exact value.

        The result is positive and sums to 1, but that alone does not make it a probability: the
        softmax of a classifier's logits ranks the classes, and how often the first of them is right
        is another question, which only data can answer [1]_.

        A slice that contains NaN or +inf, or nothing but -inf, gives NaN. A slice that is masked
        altogether gives 0.

        References
        ----------
        .. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural
           networks", ICML 2017.

        Examples
        --------
        >>> import fastsoftmax
        >>> fastsoftmax.softmax([[1.0, 2.0, 3.0], [1e4, 1e4, -1e4]], axis=-1).round(3)
        array([[0.09 , 0.245, 0.665],
               [0.5  , 0.5  , 0.   ]])

        A high temperature evens out, a low one approaches the maximum:

        >>> fastsoftmax.softmax([1.0, 2.0, 3.0], temperature=5).round(3)
        array([0.269, 0.329, 0.402])

        Excluded elements:

        >>> fastsoftmax.softmax([1.0, 1.0, float("nan")], where=[True, True, False])
        array([0.5, 0.5, 0. ])
        """
        if workers is not None:
            with _workers.set_workers(workers):
                return self.softmax(
                    x, axis, where=where, temperature=temperature, dtype=dtype, out=out
                )
        return self._map("softmax", x, axis, where, temperature, dtype, out)

    def log_softmax(
        self,
        x: ArrayLike,
        axis: Any = None,
        *,
        where: ArrayLike | None = None,
        temperature: ArrayLike = 1.0,
        dtype: DTypeLike | None = None,
        out: Array | None = None,
        workers: int | None = None,
    ) -> Any:
        r"""Logarithm of the softmax of the elements along an axis.

        .. math:: \mathrm{log\_softmax}(x)_i = \frac{x_i}{T} - \log \sum_j e^{x_j / T}

        Parameters
        ----------
        x : array_like
            The logits: real or complex numbers. Integers and bools are taken as float64.
        axis : int, tuple of ints or None, optional
            The axis or axes that are normalised together; None (the default) stands for all.
        where : array_like of bool, optional
            Elements to include, broadcast to the shape of `x`. The others are -inf in the result
            and do not contribute to the sum, whatever their value, NaN included.
        temperature : array_like, optional
            The positive number :math:`T`, 1 by default, or an array of them that broadcasts to the
            shape of `x` with the reduced axes of size one. It does not affect the result's dtype.
        dtype : dtype_like, optional
            The floating dtype of the result; by default that of `x`. The work is done in the wider
            of the two, float16 and bfloat16 in float32, and rounded once.
        out : ndarray, optional
            Where to write the result: of its shape and dtype. It may be `x` itself or overlap it.
        workers : int, optional
            At most so many threads do the work, as in `set_workers`, for this call alone. The
            NumPy backend uses one.

        Returns
        -------
        ndarray or scalar
            `out` if it is given, else a new array of the shape and memory layout of `x`, or a
            NumPy scalar if `x` is one.

        Raises
        ------
        TypeError
            If `x` does not consist of numbers or is a masked array or a matrix; if `where` is not
            boolean, `temperature` not real, or `dtype` not floating; if `out` has another dtype; if
            `workers` is not an integer.
        ValueError
            If an axis is repeated; if `where` or `temperature` does not broadcast, or a
            temperature is not positive and finite; if `out` is read-only or has another shape; if
            `workers` is 0, or negative and no CPU is left.
        numpy.exceptions.AxisError
            If an axis is out of range. Whatever argument is wrong, `x` and `out`
            are left as they were.

        See Also
        --------
        softmax : the same without the logarithm.
        logsumexp : the logarithm of the sum alone.

        Notes
        -----
        float32 and float64 results are within 3 units in the last place of the exact value. That
        holds for the tiny ones as well, at an element that leaves nearly nothing to the others: the
        largest term is kept out of the sum, and the logarithm is taken of 1 plus the rest [1]_.

        A slice that contains NaN, or nothing but -inf, gives NaN. Beside +inf, which itself gives
        NaN, everything is -inf. A slice that is masked altogether gives -inf.

        References
        ----------
        .. [1] P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp
           and softmax functions", IMA J. Numer. Anal. 41 (2021).

        Examples
        --------
        >>> import fastsoftmax
        >>> fastsoftmax.log_softmax([1000.0, 1.0])
        array([   0., -999.])
        >>> print(fastsoftmax.log_softmax([0.0, -40.0])[0])
        -4.248354255291589e-18
        """
        if workers is not None:
            with _workers.set_workers(workers):
                return self.log_softmax(
                    x, axis, where=where, temperature=temperature, dtype=dtype, out=out
                )
        return self._map("log_softmax", x, axis, where, temperature, dtype, out)

    def logsumexp(
        self,
        a: ArrayLike,
        axis: Any = None,
        b: ArrayLike | None = None,
        keepdims: bool = False,
        return_sign: bool = False,
        *,
        where: ArrayLike | None = None,
        dtype: DTypeLike | None = None,
        out: Array | None = None,
        workers: int | None = None,
    ) -> Any:
        r"""Logarithm of the sum of exponentials along an axis.

        .. math:: \mathrm{logsumexp}(a) = \log \sum_j b_j e^{a_j}

        Parameters
        ----------
        a : array_like
            The exponents: real or complex numbers. Integers and bools are taken as float64.
        axis : int, tuple of ints or None, optional
            The axis or axes that are summed over; None (the default) stands for all.
        b : array_like, optional
            The factors :math:`b_j`, 1 by default, of any sign or complex; `a` and `b` are broadcast
            together. An element whose factor is 0 is left out, even if it is infinite or NaN.
        keepdims : bool, optional
            Whether the result keeps the reduced axes, with size one. By default it does not.
        return_sign : bool, optional
            Whether to return the logarithm of the magnitude of the sum, and its sign. By default a
            negative sum gives NaN.
        where : array_like of bool, optional
            Elements to include, broadcast to the shape of `a` (and `b`). The others do not
            contribute, whatever their value, NaN included.
        dtype : dtype_like, optional
            The dtype of the result, floating, or complex if `a` or `b` is; by default their common
            one. The work is done in the wider, float16 and bfloat16 in float32, and rounded once.
        out : ndarray, optional
            Where to write the logarithm: of its shape and dtype. It may overlap `a` or `b`.
        workers : int, optional
            At most so many threads do the work, as in `set_workers`, for this call alone. The
            NumPy backend uses one.

        Returns
        -------
        result : ndarray or scalar
            `out` if it is given, else an array without the reduced axes, or a NumPy scalar if no
            axis is left.
        sign : ndarray or scalar
            Only with ``return_sign=True``: 1, 0 or -1; of a complex sum, its phase, a number of
            magnitude 1 (or 0), and `result` is then real.

        Raises
        ------
        TypeError
            If `a` or `b` does not consist of numbers or is a masked array or a matrix; if `where`
            is not boolean, or `dtype` does not fit the input; if `out` has another dtype; if
            `workers` is not an integer.
        ValueError
            If an axis is repeated; if `b` or `where` does not broadcast; if `out` is read-only or
            has another shape; if `workers` is 0, or negative and no CPU is left.
        numpy.exceptions.AxisError
            If an axis is out of range. Whatever argument is wrong, all are left
            as they were.

        See Also
        --------
        softmax : the gradient of this function.
        log_softmax : the difference of the elements and this function.

        Notes
        -----
        The largest term is kept out of the sum, and the logarithm is taken of 1 plus the rest [1]_.
        The imaginary part of a complex result lies between :math:`-\pi` and :math:`\pi`.

        The sum over no elements, or over -inf alone, is 0: its logarithm is -inf. +inf gives +inf,
        NaN gives NaN.

        References
        ----------
        .. [1] P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp
           and softmax functions", IMA J. Numer. Anal. 41 (2021).

        Examples
        --------
        >>> import fastsoftmax
        >>> print(fastsoftmax.logsumexp([1000.0, 1000.0]))
        1000.6931471805599

        A difference, in logarithms:

        >>> result, sign = fastsoftmax.logsumexp([1.0, 2.0], b=[1, -1], return_sign=True)
        >>> print(round(result, 6), sign)
        1.541325 -1.0
        """
        if workers is not None:
            with _workers.set_workers(workers):
                return self.logsumexp(
                    a, axis, b, keepdims, return_sign, where=where, dtype=dtype, out=out
                )
        return self._reduce(a, axis, b, keepdims, return_sign, where, dtype, out)

    def softmax_logsumexp(
        self,
        x: ArrayLike,
        axis: Any = -1,
        *,
        where: ArrayLike | None = None,
        dtype: DTypeLike | None = None,
        out: Array | None = None,
        workers: int | None = None,
    ) -> tuple[Any, Any]:
        r"""Softmax and log-sum-exp of the elements along an axis, of one exponentiation.

        Parameters
        ----------
        x : array_like
            The logits: real numbers. Integers and bools are taken as float64.
        axis : int, tuple of ints or None, optional
            The axis or axes that are normalised together, the last by default; None stands for all.
        where : array_like of bool, optional
            Elements to include, broadcast to the shape of `x`. The others are 0 in the softmax and
            do not contribute to the sum, whatever their value, NaN included.
        dtype : dtype_like, optional
            The floating dtype of the results; by default that of `x`. The work is done in the wider
            of the two, float16 and bfloat16 in float32, and rounded once.
        out : ndarray, optional
            Where to write the softmax: of its shape and dtype. It may be `x` itself or overlap it.
        workers : int, optional
            At most so many threads do the work, as in `set_workers`, for this call alone. The
            NumPy backend uses one.

        Returns
        -------
        softmax : ndarray or scalar
            `out` if it is given, else a new array of the shape and memory layout of `x`, or a
            NumPy scalar if `x` is one.
        logsumexp : ndarray or scalar
            An array without the reduced axes, or a NumPy scalar if no axis is left.

        Raises
        ------
        TypeError
            If `x` does not consist of real numbers or is a masked array or a matrix; if `where` is
            not boolean, or `dtype` not floating; if `out` has another dtype; if `workers` is not an
            integer.
        ValueError
            If an axis is repeated; if `where` does not broadcast; if `out` is read-only or has
            another shape; if `workers` is 0, or negative and no CPU is left.
        numpy.exceptions.AxisError
            If an axis is out of range. Whatever argument is wrong, all are left
            as they were.

        See Also
        --------
        softmax, logsumexp : the one and the other alone, with their error bounds and what they
            make of infinities and NaN.

        Examples
        --------
        >>> import fastsoftmax
        >>> values, log_sum = fastsoftmax.softmax_logsumexp([[1000.0, 1000.0], [0.0, -40.0]])
        >>> values
        array([[5.00000000e-01, 5.00000000e-01],
               [1.00000000e+00, 4.24835426e-18]])
        >>> log_sum
        array([1.00069315e+03, 4.24835426e-18])
        """
        if workers is not None:
            with _workers.set_workers(workers):
                return self.softmax_logsumexp(x, axis, where=where, dtype=dtype, out=out)
        if where is None and dtype is None:
            quick = self._kernels.softmax_logsumexp_lane(x, axis, out)
            if quick is not None:
                return quick
        logits = _arguments.as_array("x", x)
        natural = _arguments.real_dtype("x", logits.dtype)
        axes = _arguments.as_axes(axis, logits.ndim)
        asked = _arguments.result_dtype(natural, dtype)
        mask = _arguments.as_mask(where, logits.shape)
        if out is None:
            result = np.empty_like(logits, asked, subok=False)
        else:
            result = np.asarray(_arguments.check_out(out, logits.shape, asked))
            mask = _apart(mask, result)
        work = _arguments.work_dtype(natural, asked)
        place = Place(result, axes, work)
        outer, _, inner = place.layout.shape
        log_sum = np.empty((outer, inner), work)
        self._kernels_for(work).softmax_logsumexp(
            place.source(logits, copy_to_target=True),
            place.target,
            log_sum,
            None if mask is None else place.layout.elements(mask),
        )
        place.deliver()
        of_slices = place.layout.from_slices(log_sum).reshape(reduced_shape(logits.shape, axes))
        softmax = array_or_scalar(result) if out is None else out
        return softmax, rounded(of_slices, asked, None)

    def _map(
        self,
        function: str,
        x: ArrayLike,
        axis: Any,
        where: ArrayLike | None,
        temperature: ArrayLike,
        dtype: DTypeLike | None,
        out: Array | None,
    ) -> Any:
        """softmax or log_softmax, the general way."""
        logits = _arguments.as_array("x", x)
        natural = _arguments.float_dtype("x", logits.dtype)
        axes = _arguments.as_axes(axis, logits.ndim)
        asked = _arguments.result_dtype(natural, dtype)
        mask = _arguments.as_mask(where, logits.shape)
        divisors = _arguments.as_temperature(temperature, logits.shape, axes)
        if out is None:
            result = np.empty_like(logits, asked, subok=False)
        else:
            result = np.asarray(_arguments.check_out(out, logits.shape, asked))
            mask, divisors = _apart(mask, result), _apart(divisors, result)

        work = self._work_dtype(natural, asked, divisors)
        kernel = getattr(self._kernels_for(work, divisors), function)
        for part in parts(logits, result, axes, work):
            place = Place(result[part], axes, work)
            # From here on, perhaps, in place.
            source = place.source(logits[part], copy_to_target=True)
            kernel(
                source,
                place.target,
                None if divisors is None else place.layout.slices(divisors[part]),
                None if mask is None else place.layout.elements(mask[part]),
            )
            place.deliver()
        return array_or_scalar(result) if out is None else out

    def _reduce(
        self,
        a: ArrayLike,
        axis: Any,
        b: ArrayLike | None,
        keepdims: bool,
        return_sign: bool,
        where: ArrayLike | None,
        dtype: DTypeLike | None,
        out: Array | None,
    ) -> Any:
        """logsumexp, the general way."""
        exponents, weights, natural = _arguments.as_terms(a, b)
        axes = _arguments.as_axes(axis, exponents.ndim)
        asked = _arguments.result_dtype(natural, dtype)
        mask = _arguments.as_mask(where, exponents.shape)
        of_log = np.finfo(asked).dtype if asked.kind == "c" and return_sign else asked
        shape = _log_sum_shape(exponents.shape, axes, keepdims)
        if out is not None:
            _arguments.check_out(out, shape, of_log)

        work = _arguments.work_dtype(natural, asked)
        if weights is None and not return_sign:
            work = self._work_dtype(natural, asked)
        sign = None
        if weights is None and work.kind != "c":
            log_sum = self._plain_log_sum(exponents, axes, mask, work)
            if return_sign:
                sign = np.where(np.isnan(log_sum), log_sum, log_sum > -np.inf)
        else:
            log_sum, sign = self._signed_log_sum(exponents, weights, axes, mask, work, return_sign)
        result = rounded(log_sum.reshape(shape), of_log, out)
        if sign is None:
            return result
        return result, rounded(sign.reshape(shape), asked, None)

    def _plain_log_sum(
        self,
        a: Array,
        axes: tuple[int, ...],
        mask: NDArray[np.bool_] | None,
        work: np.dtype[Any],
    ) -> Array:
        """The log-sum-exp of real numbers without weights, with reduced axes of size one."""
        result = _empty_for_slices(a, axes, work)
        for part in parts(a, None, axes, work):
            layout = Layout(a[part], axes)
            source = as_source(a[part], layout, work)
            outer, _, inner = layout.shape
            log_sum = np.empty((outer, inner), work)
            spread = None if mask is None else layout.elements(mask[part])
            self._kernels_for(work).logsumexp(source, log_sum, spread)
            result[part] = layout.from_slices(log_sum)
        return result

    def _signed_log_sum(
        self,
        a: Array,
        b: Array | None,
        axes: tuple[int, ...],
        mask: NDArray[np.bool_] | None,
        work: np.dtype[Any],
        return_sign: bool,
    ) -> tuple[Array, Array | None]:
        """The log-sum-exp with weights or of complex numbers, with reduced axes of size one."""
        if mask is not None and b is None:
            a = np.where(mask, a, -np.inf)
        elif mask is not None and b is not None:
            b = np.where(mask, b, b.dtype.type(0))
        dtype = None if b is None else _dtype_for_weighted_kernel(a, b, work)
        if b is None or dtype is None:
            return _log_sum_in_numpy(a, b, axes, work, return_sign)
        layout = Layout(a, axes)
        log_sum, sign = _weighted.logsumexp_by_kernel(
            self._kernels_for(dtype).weighted_logsumexp,
            as_source(a, layout, dtype),
            as_source(b, layout, dtype),
        )
        if return_sign:
            return layout.from_slices(log_sum), layout.from_slices(sign)
        return layout.from_slices(np.where(sign < 0, np.nan, log_sum)), None


def _log_sum_shape(
    shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool
) -> tuple[int, ...]:
    if keepdims and not shape:
        return (1,)  # as SciPy has it
    return reduced_shape(shape, axes, keepdims)


def _dtype_for_weighted_kernel(a: Array, b: Array, work: np.dtype[Any]) -> np.dtype[Any] | None:
    """In which a kernel sums both arrays without rounding either; None if none does."""
    if work not in (np.float32, np.float64):
        return None
    fits = work == np.float32 and all(np.can_cast(x.dtype, np.float32) for x in (a, b))
    return np.dtype(np.float32 if fits else np.float64)


def _log_sum_in_numpy(
    a: Array,
    b: Array | None,
    axes: tuple[int, ...],
    work: np.dtype[Any],
    return_sign: bool,
) -> tuple[Array, Array | None]:
    """The log-sum-exp of complex numbers or longdouble, with reduced axes of size one."""
    wide = np.promote_types(work, np.float64)
    with np.errstate(all="ignore"):
        a = a.astype(wide)
        b = None if b is None else b.astype(wide)
    log_sum, sign = _weighted.logsumexp(
        _reduced_last(a, axes), None if b is None else _reduced_last(b, axes), return_sign
    )

    def of_slices(values: Array) -> Array:
        result = _empty_for_slices(a, axes, values.dtype)
        result[...] = values.reshape(result.shape)
        return result

    return of_slices(log_sum), None if sign is None else of_slices(sign)


def _empty_for_slices(a: Array, axes: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array with an element for each slice of `a`, in whose order they lie in memory."""
    shape = reduced_shape(a.shape, axes, keepdims=True)
    return np.empty_like(a, dtype, shape=shape, subok=False)


def _reduced_last(array: Array, axes: tuple[int, ...]) -> Array:
    """`array` with the axes to reduce merged into one, the last."""
    kept = tuple(i for i in range(array.ndim) if i not in axes)
    length = math.prod(array.shape[i] for i in axes)
    return array.transpose(kept + axes).reshape(*(array.shape[i] for i in kept), length)


def _apart(array: Any, out: Array) -> Any:
    """`array`, or a copy of it if writing to `out` could change it."""
    return array.copy() if array is not None and np.may_share_memory(array, out) else array


IN_FORCE = Functions(_backend.ACTIVE.kernels)
"""The functions on the backend in force, which the package offers as its own."""
