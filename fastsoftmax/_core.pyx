# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: freethreading_compatible=True
"""The compiled kernels, behind the interface of `_fallback`.

Arrays in, one C call, nothing decided here.
"""

import functools

import numpy as np

cimport cython
from libc.math cimport NAN, frexp, isfinite, ldexp
from libc.string cimport memset

from fastsoftmax._workers import get_workers

cimport numpy as cnp

from fastsoftmax._plain cimport (
    MAX_NDIM,
    are_apart,
    are_same,
    array_of_list,
    array_or_scalar,
    as_divisor,
    copied_weights,
    from_the_front,
    is_dtype_of,
    is_like,
    is_place,
    is_plain,
    is_plain_turned,
    is_reduction,
    is_row_of,
    labels_of_slices,
    may_receive,
    new_like,
    new_slices,
    plain_copy,
    scalar_like,
    soon_plain,
    whole_mask,
)

cnp.import_array()

# The elements of an array; those of float16 and bfloat16 as words of 16 bits.
ctypedef fused real:
    float
    double
    unsigned short

# A function of fsm_kernels; which one is known where it is called.
ctypedef enum function:
    SOFTMAX
    LOG_SOFTMAX
    LOGSUMEXP

# Elements from which other threads may run meanwhile: below, handing over the interpreter's lock
# costs more than they gain.
cdef enum:
    RELEASE_FROM = 8192

# More threads than any machine has.
cdef enum:
    MOST_WORKERS = 1 << 16


def supported():
    """Names of the compiled backends that work on this processor and system, best first."""
    names = []
    cdef const fsm_backend *backend = fsm_backend_at(0)
    while backend is not NULL:
        names.append(backend.name.decode())
        backend = fsm_backend_at(len(names))
    return tuple(names)


@cython.final
cdef class Kernels:
    """The kernels of one compiled backend."""

    cdef const fsm_backend *_backend

    def __init__(self, name):
        self._backend = fsm_backend_at(supported().index(name))

    @property
    def name(self):
        return self._backend.name.decode()

    def softmax(self, x, out, temperature, where):
        """Softmax along axis 1 of the 3-D array `x` into `out`."""
        self._call(SOFTMAX, x, out, temperature, where)

    def log_softmax(self, x, out, temperature, where):
        """Log-softmax along axis 1 of the 3-D array `x` into `out`."""
        self._call(LOG_SOFTMAX, x, out, temperature, where)

    def logsumexp(self, x, out, where):
        """Log-sum-exp along axis 1 of the 3-D array `x` into the 2-D array `out`."""
        self._call(LOGSUMEXP, x, out[:, np.newaxis, :], None, where)

    def softmax_logsumexp(self, x, out, log_sum, where):
        """Softmax along axis 1 of `x` into `out`, log-sum-exp into the 2-D `log_sum`."""
        cdef fsm_call call
        if x.shape[1] == 0:
            log_sum.fill(-np.inf)
        begin(&call, x)
        call.out = elements(out)
        call.slices = slices_of(log_sum)
        if where is not None:
            call.where = elements(where)
        launch_call(self._of(x).softmax_logsumexp, &call, x)

    def predict(self, x, index, confidence):
        """Argmax along axis 1, not empty, of `x` into the 2-D `index`, its softmax beside it."""
        cdef fsm_call call
        begin(&call, x)
        call.index = slices_of(index)
        if confidence is not None:
            call.slices = slices_of(confidence)
        launch_call(self._of(x).predict, &call, x)

    def top_k(self, x, values, indices, log):
        """The largest softmax or log-softmax values along axis 1, and where they stand."""
        cdef fsm_call call
        begin(&call, x)
        call.values = elements(values)
        call.index = elements(indices)
        call.k = values.shape[1]
        call.log = log
        launch_call(self._of(x).top_k, &call, x)

    def cross_entropy_labels(self, x, target, class_weight, label_smoothing, loss, grad, scale):
        """The loss of each slice along axis 1, and `scale` times its gradient."""
        cdef fsm_call call
        begin_loss(&call, x, class_weight, label_smoothing, loss, grad, scale)
        call.label = slices_of(target)
        launch_call(self._of(x).cross_entropy_labels, &call, x)

    def cross_entropy_probabilities(
        self, x, target, class_weight, label_smoothing, loss, grad, scale
    ):
        """The same for targets of the shape and dtype of `x`."""
        cdef fsm_call call
        begin_loss(&call, x, class_weight, label_smoothing, loss, grad, scale)
        call.other = elements(target)
        launch_call(self._of(x).cross_entropy_probabilities, &call, x)

    def softmax_grad_hess(self, x, target, weight, factor, grad, hess):
        """The gradient of each slice's loss, and `factor` times its second derivatives."""
        cdef fsm_call call
        begin(&call, x)
        call.label = slices_of(target)
        if weight is not None:
            call.weight = slices_of(weight)
        call.out = elements(grad)
        call.hess = elements(hess)
        call.scale = factor
        launch_call(self._of(x).softmax_grad_hess, &call, x)

    def softmax_backward(self, grad, y, out):
        """y (grad - sum(grad y)) along axis 1 into `out`, which may be either of the two."""
        cdef fsm_call call
        begin_backward(&call, grad, y, out)
        launch_call(self._of(y).softmax_backward, &call, y)

    def log_softmax_backward(self, grad, log_y, out):
        """grad - exp(log_y) sum(grad) along axis 1 into `out`, which may be either of the two."""
        cdef fsm_call call
        begin_backward(&call, grad, log_y, out)
        launch_call(self._of(log_y).log_softmax_backward, &call, log_y)

    def weighted_logsumexp(self, x, weights, log_sum, sign):
        """log|sum(weights * exp(x))| along axis 1 into `log_sum`, and the sign of the sum.

        Both are 2-D. Slices with infinities, NaN or an extreme weight, those that come to nearly
        nothing, and those of float32 whose weights have both signs, are left to others: they have
        the sign FSM_UNKNOWN_SIGN.
        """
        cdef fsm_call call
        if x.shape[1] == 0:
            log_sum.fill(-np.inf)
            sign.fill(0)
        begin(&call, x)
        call.other = elements(weights)
        call.slices = slices_of(log_sum)
        call.index = slices_of(sign)
        launch_call(self._of(x).weighted_logsumexp, &call, x)

    def quick(self, general):
        """The public function `general`, with the quick way of plain arrays before it.

        Where it does not know every argument, it leaves the call to `general`, errors included.
        """
        cdef Kernels kernels = self

        def softmax(
            x, axis=None, *, where=None, temperature=1.0, dtype=None, out=None, workers=None
        ):
            x = array_of_list(x)
            if workers is None:
                result = kernels._quickly(SOFTMAX, x, axis, where, temperature, dtype, out, False)
                if result is not None:
                    return result
            return general(
                x, axis, where=where, temperature=temperature, dtype=dtype, out=out, workers=workers
            )

        def log_softmax(
            x, axis=None, *, where=None, temperature=1.0, dtype=None, out=None, workers=None
        ):
            x = array_of_list(x)
            if workers is None:
                result = kernels._quickly(
                    LOG_SOFTMAX, x, axis, where, temperature, dtype, out, False
                )
                if result is not None:
                    return result
            return general(
                x, axis, where=where, temperature=temperature, dtype=dtype, out=out, workers=workers
            )

        def logsumexp(
            a, axis=None, b=None, keepdims=False, return_sign=False,
            *, where=None, dtype=None, out=None, workers=None,
        ):
            a = array_of_list(a)
            result = None
            if b is None and return_sign is False and workers is None:
                result = kernels._quickly(LOGSUMEXP, a, axis, where, 1.0, dtype, out, keepdims)
            elif where is None and dtype is None and out is None and workers is None:
                result = kernels._weighted_lane(a, axis, b, keepdims, return_sign)
            if result is not None:
                return result
            return general(
                a, axis, b, keepdims, return_sign,
                where=where, dtype=dtype, out=out, workers=workers,
            )

        for function in (softmax, log_softmax, logsumexp):
            if function.__name__ == general.__name__:
                functools.update_wrapper(function, general)
                # Where to find it: it is pickled by this name.
                function.__module__, function.__qualname__ = "fastsoftmax", function.__name__
                return function

    @property
    def dtypes(self):
        """Names of the dtypes that the kernels take."""
        wide = ("float32", "float64")
        return wide if self._backend.f16 is NULL else wide + ("float16", "bfloat16")

    def convert(self, source, target):
        """Copy `source` to `target`, of the same shape; False if NumPy has to.

        That is unless one of them is float32 and the other has 16 bits, and both are contiguous in
        one order.
        """
        cdef cnp.ndarray a = source, b = target
        cdef const void *read = cnp.PyArray_DATA(a)
        cdef void *write = cnp.PyArray_DATA(b)
        cdef size_t count = cnp.PyArray_SIZE(a)
        cdef const fsm_kernels *kernels
        is_in_order = cnp.PyArray_ISCARRAY_RO(a) and cnp.PyArray_ISCARRAY(b)
        if not is_in_order and not (cnp.PyArray_ISFARRAY_RO(a) and cnp.PyArray_ISFARRAY(b)):
            return False
        names = a.dtype.type.__name__, b.dtype.type.__name__
        if names[0] == "float32" and names[1] in self.dtypes[2:]:
            kernels = self._of(b)
            with nogil:
                kernels.from_float(<const float *> read, write, count)
        elif names[1] == "float32" and names[0] in self.dtypes[2:]:
            kernels = self._of(a)
            with nogil:
                kernels.to_float(read, <float *> write, count)
        else:
            return False
        return True

    def predict_lane(self, logits, axis, with_confidence):
        """Argmax of a plain array along an axis, and its softmax; None for any other call."""
        cdef fsm_call call
        cdef cnp.ndarray index, confidence
        logits = soon_plain(logits)
        if not begin_plain(&call, logits, axis):
            return None
        index = new_slices(logits, axis, cnp.NPY_INTP)
        call.index = one_of_each(&call, index)
        if with_confidence:
            confidence = new_slices(logits, axis, cnp.PyArray_TYPE(logits))
            call.slices = one_of_each(&call, confidence)
        launch_call(self._of(logits).predict, &call, logits)
        if with_confidence:
            return array_or_scalar(index), array_or_scalar(confidence)
        return array_or_scalar(index)

    def top_k_lane(self, logits, k, axis, log):
        """`top_k` of a plain array along an axis; None for any other call."""
        cdef fsm_call call
        cdef cnp.ndarray values, indices
        cdef cnp.npy_intp[MAX_NDIM] shape
        cdef int i, ndim
        logits = soon_plain(logits)
        if not begin_plain(&call, logits, axis) or type(k) is not int or type(log) is not bool:
            return None
        if not 0 < k <= call.length:
            return None
        ndim = cnp.PyArray_NDIM(logits)
        for i in range(ndim):
            shape[i] = cnp.PyArray_DIM(logits, i)
        shape[from_the_front(axis, ndim)] = call.k = k
        values = cnp.PyArray_EMPTY(ndim, shape, cnp.PyArray_TYPE(logits), 0)
        indices = cnp.PyArray_EMPTY(ndim, shape, cnp.NPY_INTP, 0)
        call.values = first_of_each(&call, values)
        call.index = first_of_each(&call, indices)
        call.log = log
        launch_call(self._of(logits).top_k, &call, logits)
        return values, indices

    def softmax_logsumexp_lane(self, x, axis, out):
        """`softmax_logsumexp` of a plain array along an axis; None for any other call."""
        cdef fsm_call call
        cdef cnp.ndarray log_sum
        x = soon_plain(x)
        if not begin_plain(&call, x, axis):
            return None
        if out is None:
            out = new_like(x)
        elif not may_receive(out, x):
            return None
        log_sum = new_slices(x, axis, cnp.PyArray_TYPE(x))
        call.out = whole(&call, out)
        call.slices = one_of_each(&call, log_sum)
        launch_call(self._of(x).softmax_logsumexp, &call, x)
        return out, array_or_scalar(log_sum)

    def cross_entropy_lane(
        self, logits, target, weight, axis, ignore_index, label_smoothing, reduction, with_grad
    ):
        """The loss along an axis of plain arrays, and its gradient; None for any other call.

        None, too, if a label or a weight is none.
        """
        cdef fsm_call call
        cdef fsm_call_kernel *kernel
        cdef cnp.ndarray labels, losses, grad
        cdef double divisor
        logits = soon_plain(logits)
        if (
            not begin_plain(&call, logits, axis)
            or type(label_smoothing) is not float
            or not 0 <= label_smoothing <= 1
            or not is_reduction(reduction)
        ):
            return None
        if weight is not None:
            weight = copied_weights(weight, call.length)
            if weight is None:
                return None
            call.weight = same_for_all(weight)
        if is_plain(target) and is_like(target, logits) and type(ignore_index) is int:
            kernel = self._of(logits).cross_entropy_probabilities
            call.other = whole(&call, target)
            divisor = call.outer * call.inner if reduction == "mean" else 1.0
        else:
            labels = labels_of_slices(target, logits, axis, True, ignore_index)
            if labels is None:
                return None
            kernel = self._of(logits).cross_entropy_labels
            call.label = one_of_each(&call, labels)
            divisor = self._divisor_of_mean(&call) if reduction == "mean" else 1.0
        losses = new_slices(logits, axis, cnp.PyArray_TYPE(logits))
        call.slices = one_of_each(&call, losses)
        call.label_smoothing = label_smoothing
        call.scale = 1.0 / divisor
        if with_grad:
            grad = new_like(logits)
            call.out = whole(&call, grad)
        launch_call(kernel, &call, logits)
        if reduction == "none":
            loss = array_or_scalar(losses)
        else:
            loss = scalar_like(logits, self._total(losses) / divisor)
        return (loss, grad) if with_grad else loss

    def nll_loss_lane(self, log_probs, target, weight, axis, ignore_index, reduction):
        """`nll_loss` of a plain array along an axis; None for any other call.

        None, too, if a label or a weight is none.
        """
        cdef fsm_call call
        cdef cnp.ndarray labels, losses
        cdef double divisor
        log_probs = soon_plain(log_probs)
        if not begin_plain(&call, log_probs, axis) or not is_reduction(reduction):
            return None
        if weight is not None:
            weight = copied_weights(weight, call.length)
            if weight is None:
                return None
            call.weight = same_for_all(weight)
        labels = labels_of_slices(target, log_probs, axis, True, ignore_index)
        if labels is None:
            return None
        call.label = one_of_each(&call, labels)
        divisor = self._divisor_of_mean(&call) if reduction == "mean" else 1.0
        losses = new_slices(log_probs, axis, cnp.NPY_FLOAT64)
        call.slices = one_of_each(&call, losses)
        self._of(log_probs).nll_loss(&call)
        if reduction != "none":
            return scalar_like(log_probs, self._total(losses) / divisor)
        return array_or_scalar(
            cnp.PyArray_FROM_OTF(
                losses, cnp.PyArray_TYPE(log_probs), cnp.NPY_ARRAY_CARRAY | cnp.NPY_ARRAY_FORCECAST
            )
        )

    def softmax_grad_hess_lane(self, logits, target, weight, factor):
        """`softmax_grad_hess` of plain arrays; None for any other call."""
        cdef fsm_call call
        cdef cnp.ndarray labels, grad, hess
        logits = soon_plain(logits)
        if not begin_plain(&call, logits, -1) or cnp.PyArray_NDIM(logits) != 2:
            return None
        if weight is not None:
            weight = copied_weights(weight, call.outer)
            if weight is None:
                return None
            call.weight = one_of_each(&call, weight)
        labels = labels_of_slices(target, logits, -1, False, 0)
        if labels is None:
            return None
        if factor is None:
            call.scale = 1
        elif type(factor) is float and 0 < factor < np.inf:
            call.scale = factor
        else:
            return None
        grad, hess = new_like(logits), new_like(logits)
        call.label = one_of_each(&call, labels)
        call.out = whole(&call, grad)
        call.hess = whole(&call, hess)
        launch_call(self._of(logits).softmax_grad_hess, &call, logits)
        return grad, hess

    def softmax_backward_lane(self, grad, y, axis, out):
        """`softmax_backward` of plain arrays along an axis; None for any other call."""
        return self._backward_lane(True, grad, y, axis, out)

    def log_softmax_backward_lane(self, grad, log_y, axis, out):
        """`log_softmax_backward` of plain arrays along an axis; None for any other call."""
        return self._backward_lane(False, grad, log_y, axis, out)

    cdef double _divisor_of_mean(self, fsm_call *call):
        """The sum of the weights of the labels that are not ignored; NaN for nothing.

        They are divided by the power of two that brings it near 1 beforehand, which changes no
        mean.
        """
        cdef const cnp.npy_int64 *label = <const cnp.npy_int64 *> call.label.data
        cdef cnp.npy_int64 chosen
        cdef cnp.npy_uint64 signs
        cdef double *weight = <double *> call.weight.data
        cdef cnp.npy_intp count = call.outer * call.inner, ignored = 0, last = call.length - 1, i
        cdef cnp.ndarray of_labels
        cdef double *of_label
        cdef double divisor, factor, rest
        cdef int exponent
        if weight is NULL:
            for i in range(count):
                signs = <cnp.npy_uint64> label[i] | <cnp.npy_uint64> last - label[i]
                ignored += signs >> 63  # 1 of what is no class
            divisor = count - ignored
        else:
            of_labels = cnp.PyArray_EMPTY(1, &count, cnp.NPY_FLOAT64, 0)
            of_label = <double *> cnp.PyArray_DATA(of_labels)
            for i in range(count):
                chosen = (<const volatile cnp.npy_int64 *> label)[i]
                of_label[i] = weight[chosen] if 0 <= chosen <= last else 0
            divisor = self._total(of_labels)
            if isfinite(divisor):
                divisor = frexp(divisor, &exponent)
                # The power itself may be none that a double can be.
                factor, rest = ldexp(1, -(exponent // 2)), ldexp(1, exponent // 2 - exponent)
                for i in range(<cnp.npy_intp> call.length):
                    weight[i] = weight[i] * factor * rest
        return NAN if divisor == 0 else divisor

    cdef double _total(self, cnp.ndarray values) noexcept:
        """The sum of a contiguous array, rounded once."""
        return self._of(values).sum(cnp.PyArray_DATA(values), cnp.PyArray_SIZE(values))

    cdef _backward_lane(self, bint of_softmax, grad, y, axis, out):
        cdef fsm_call call
        cdef const fsm_kernels *kernels
        if not begin_plain(&call, y, axis) or not is_plain(grad) or not is_like(grad, y):
            return None
        if out is None:
            out = new_like(y)
        elif not may_receive(out, y) or not may_receive(out, grad):
            return None
        call.other = whole(&call, grad)
        call.out = whole(&call, out)
        kernels = self._of(y)
        launch_call(
            kernels.softmax_backward if of_softmax else kernels.log_softmax_backward, &call, y
        )
        return out

    cdef _weighted_lane(self, a, axis, b, keepdims, return_sign):
        """Log-sum-exp of plain arrays along an axis, or of a vector; None for others.

        The weights are those of all elements or, along the last axis, a vector of those of each
        row. None, too, if a slice is left to others.
        """
        cdef fsm_call call
        cdef cnp.ndarray log_sum, sign
        cdef const cnp.npy_intp *signs
        cdef cnp.npy_intp i
        cdef bint has_negative = False
        if axis is None and cnp.PyArray_CheckExact(a) and cnp.PyArray_NDIM(a) == 1:
            axis = -1
        if (
            not begin_plain(&call, a, axis)
            or not is_plain(b)
            or keepdims is not False
            or type(return_sign) is not bool
        ):
            return None
        if is_like(b, a):
            call.other = whole(&call, b)
        elif (
            call.inner == 1
            and is_row_of(b, a)
            and cnp.PyArray_DIM(b, 0) == <cnp.npy_intp> call.length
        ):
            call.other = same_for_all(b)
        else:
            return None
        log_sum, sign = new_slices(a, axis, cnp.PyArray_TYPE(a)), new_slices(a, axis, cnp.NPY_INTP)
        call.slices = one_of_each(&call, log_sum)
        call.index = one_of_each(&call, sign)
        launch_call(self._of(a).weighted_logsumexp, &call, a)
        signs = <const cnp.npy_intp *> cnp.PyArray_DATA(sign)
        for i in range(cnp.PyArray_SIZE(sign)):
            if signs[i] == FSM_UNKNOWN_SIGN:
                return None
            has_negative |= signs[i] < 0
        if return_sign:
            return array_or_scalar(log_sum), array_or_scalar(sign.astype(log_sum.dtype))
        if has_negative:
            log_sum[sign < 0] = np.nan
        return array_or_scalar(log_sum)

    cdef const fsm_kernels *_of(self, cnp.ndarray x) noexcept:
        """The kernels for the dtype of x, which is one of `dtypes`."""
        cdef int dtype = cnp.PyArray_TYPE(x)
        if dtype == cnp.NPY_FLOAT32:
            return self._backend.f32
        if dtype == cnp.NPY_FLOAT64:
            return self._backend.f64
        if dtype == cnp.NPY_FLOAT16:
            return self._backend.f16
        return self._backend.bf16

    cdef _call(self, function which, x, out, temperature, where):
        """Run a kernel on 3-D arrays; `temperature` is 2-D."""
        cdef fsm_kernel *run_on = kernel(self._of(x), which)
        if where is not None:
            where = where.view(np.uint8)
        if x.dtype == np.float32:
            run[float](run_on, x, out, temperature, where)
        elif x.dtype == np.float64:
            run[double](run_on, x, out, temperature, where)
        else:
            run["unsigned short"](
                run_on, x.view(np.uint16), out.view(np.uint16), temperature, where
            )

    cdef const fsm_kernels *_plain_kernels(self, x) noexcept:
        """The kernels for exactly an ndarray, native, C-contiguous and not empty; else NULL."""
        cdef cnp.ndarray a
        if not cnp.PyArray_CheckExact(x):
            return NULL
        a = <cnp.ndarray> x
        if (
            cnp.PyArray_TYPE(a) in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64, cnp.NPY_FLOAT16)
            and cnp.PyArray_ISCARRAY_RO(a)
            and cnp.PyArray_NDIM(a) > 0
            and cnp.PyArray_SIZE(a) > 0
        ):
            return self._of(a)
        return NULL

    cdef _quickly(self, function which, x, axis, where, temperature, dtype, out, keepdims):
        """The result for arrays that are plain, or soon made so; else None."""
        result = self._lane(which, x, axis, where, temperature, dtype, out, keepdims)
        if result is None and is_plain_turned(x):
            result = self._turned_lane(which, x, axis, where, temperature, dtype, out, keepdims)
        if result is None:
            small = plain_copy(x, dtype)
            if small is not None:
                where = whole_mask(where, small)
            result = self._lane(which, small, axis, where, temperature, dtype, out, keepdims)
        return result

    cdef _turned_lane(self, function which, x, axis, where, temperature, dtype, out, keepdims):
        """The same for an array in Fortran order, by its transpose."""
        cdef int ndim = cnp.PyArray_NDIM(x)
        if axis is not None:
            axis = ndim - 1 - from_the_front(axis, ndim)
            if axis == ndim:
                return None
        if where is not None:
            if not cnp.PyArray_CheckExact(where) or cnp.PyArray_NDIM(where) != ndim:
                return None
            where = where.T
        if out is None and which == LOGSUMEXP:
            result = self._lane(which, x.T, axis, where, temperature, dtype, None, keepdims)
            return result.T if result is not None and result.ndim > 1 else result
        if out is None:
            out = cnp.PyArray_EMPTY(ndim, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 1)
        elif not cnp.PyArray_CheckExact(out):
            return None
        if self._lane(which, x.T, axis, where, temperature, dtype, out.T, keepdims) is None:
            return None
        return out

    cdef _lane(self, function which, x, axis, where, temperature, dtype, out, keepdims):
        """The result for plain arrays, along one axis or all of them; None for any other call."""
        cdef const fsm_kernels *kernels = self._plain_kernels(x)
        cdef int ndim, first, last, i, kept = 0
        cdef double divisor, scalar
        cdef cnp.npy_intp[MAX_NDIM] shape
        cdef cnp.npy_intp size
        cdef cnp.ndarray source, result = None
        cdef fsm_slices slices
        if kernels is NULL or type(keepdims) is not bool:
            return None
        source = <cnp.ndarray> x
        ndim = cnp.PyArray_NDIM(source)
        first, last = 0, ndim - 1
        if axis is not None:
            first = last = from_the_front(axis, ndim)
        divisor = as_divisor(temperature)
        if first < 0 or divisor == 0 or (dtype is not None and not is_dtype_of(dtype, source)):
            return None

        slices.outer = slices.length = slices.inner = 1
        for i in range(ndim):
            size = cnp.PyArray_DIM(source, i)
            if i < first:
                slices.outer *= size
            elif i > last:
                slices.inner *= size
            else:
                slices.length *= size
                if which == LOGSUMEXP:
                    if keepdims is False:
                        continue
                    size = 1
            shape[kept] = size
            kept += 1

        if out is None:
            if kept > 0:
                result = <cnp.ndarray> cnp.PyArray_EMPTY(kept, shape, cnp.PyArray_TYPE(source), 0)
        elif is_place(out, source, kept, shape):
            result = <cnp.ndarray> out
            if not are_apart(result, source):
                if which == LOGSUMEXP or not are_same(result, source):
                    return None
            if where is not None and not are_apart(result, where):
                return None
        else:
            return None

        slices.x = cnp.PyArray_DATA(source)
        slices.out = &scalar if result is None else cnp.PyArray_DATA(result)
        slices.x_length = slices.out_length = slices.inner
        slices.x_outer = slices.length * slices.inner
        slices.out_outer = slices.inner if which == LOGSUMEXP else slices.x_outer
        slices.temperature = NULL if divisor == 1 else &divisor
        slices.temperature_outer = slices.temperature_inner = 0
        slices.where = NULL
        if where is not None and not begin_where(&slices, where, source):
            return None
        launch(kernel(kernels, which), &slices, cnp.PyArray_ITEMSIZE(source))
        if result is None:
            return cnp.PyArray_ToScalar(&scalar, source)
        return result


cdef fsm_kernel *kernel(const fsm_kernels *kernels, function which) noexcept:
    if which == SOFTMAX:
        return kernels.softmax
    if which == LOG_SOFTMAX:
        return kernels.log_softmax
    return kernels.logsumexp


cdef bint begin_where(fsm_slices *slices, where, cnp.ndarray x) noexcept:
    """Leave out elements of x; false if the mask is not plain, and of all of x or of each row."""
    cdef cnp.ndarray mask
    if not cnp.PyArray_CheckExact(where):
        return False
    mask = <cnp.ndarray> where
    if cnp.PyArray_TYPE(mask) != cnp.NPY_BOOL or not cnp.PyArray_ISCARRAY_RO(mask):
        return False
    slices.where = <const unsigned char *> cnp.PyArray_DATA(mask)
    slices.where_outer = slices.x_outer
    slices.where_length = slices.x_length
    slices.where_inner = 1
    if cnp.PyArray_SAMESHAPE(mask, x):
        return True
    slices.where_outer = 0
    return (
        slices.inner == 1
        and cnp.PyArray_NDIM(mask) == 1
        and cnp.PyArray_DIM(mask, 0) == cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
        and cnp.PyArray_DIM(mask, 0) == <cnp.npy_intp> slices.length
    )


cdef bint begin_plain(fsm_call *call, x, axis):
    """Begin a call along one axis of x; false if it is not plain, or has no such axis."""
    cdef int ndim, place, i
    if not is_plain(x):
        return False
    ndim = cnp.PyArray_NDIM(x)
    place = from_the_front(axis, ndim)
    if place < 0:
        return False
    memset(call, 0, sizeof(fsm_call))
    call.outer = call.inner = 1
    call.length = cnp.PyArray_DIM(x, place)
    for i in range(ndim):
        if i < place:
            call.outer *= cnp.PyArray_DIM(x, i)
        elif i > place:
            call.inner *= cnp.PyArray_DIM(x, i)
    call.x = whole(call, x)
    return True


cdef fsm_array whole(const fsm_call *call, cnp.ndarray a) noexcept:
    """A contiguous array of the shape of a call."""
    return [cnp.PyArray_DATA(a), call.length * call.inner, call.inner, 1]


cdef fsm_array one_of_each(const fsm_call *call, cnp.ndarray a) noexcept:
    """A contiguous array with an element for each slice of a call."""
    return [cnp.PyArray_DATA(a), call.inner, 0, 1]


cdef fsm_array first_of_each(const fsm_call *call, cnp.ndarray a) noexcept:
    """A contiguous array with `k` elements for each slice of a call."""
    return [cnp.PyArray_DATA(a), call.k * call.inner, call.inner, 1]


cdef fsm_array same_for_all(cnp.ndarray a) noexcept:
    """A contiguous array with an element for each place along the axis of a call."""
    return [cnp.PyArray_DATA(a), 0, 1, 0]


cdef run(
    fsm_kernel *kernel,
    const real[:, :, :] x,
    real[:, :, :] out,
    const double[:, :] temperature,
    const unsigned char[:, :, :] where,
):
    cdef fsm_slices slices
    if out.shape[0] == 0 or out.shape[1] == 0 or out.shape[2] == 0:
        return
    slices.outer = x.shape[0]
    slices.length = x.shape[1]
    slices.inner = x.shape[2]
    slices.x = &x[0, 0, 0]
    slices.x_outer = x.strides[0] // <Py_ssize_t> sizeof(real)
    slices.x_length = x.strides[1] // <Py_ssize_t> sizeof(real)
    slices.out = &out[0, 0, 0]
    slices.out_outer = out.strides[0] // <Py_ssize_t> sizeof(real)
    slices.out_length = out.strides[1] // <Py_ssize_t> sizeof(real)
    slices.temperature = NULL
    if temperature is not None:
        slices.temperature = &temperature[0, 0]
        slices.temperature_outer = temperature.strides[0] // <Py_ssize_t> sizeof(double)
        slices.temperature_inner = temperature.strides[1] // <Py_ssize_t> sizeof(double)
    slices.where = NULL
    if where is not None:
        slices.where = &where[0, 0, 0]
        slices.where_outer = where.strides[0]
        slices.where_length = where.strides[1]
        slices.where_inner = where.strides[2]
    launch(kernel, &slices, sizeof(real))


cdef int launch(fsm_kernel *kernel, fsm_slices *slices, size_t itemsize) except -1:
    cdef size_t size = slices.outer * slices.length * slices.inner
    cdef int workers
    slices.elements = slices.columns = 0
    slices.each = NULL
    if size < RELEASE_FROM:
        kernel(slices)
    elif size < 2 * FSM_SHARE:
        with nogil:
            kernel(slices)
    else:
        workers = min(get_workers(), MOST_WORKERS)
        with nogil:
            fsm_run(kernel, slices, itemsize, workers)
    return 0


cdef fsm_array elements(cnp.ndarray a) noexcept:
    """A 3-D array."""
    cdef cnp.npy_intp size = cnp.PyArray_ITEMSIZE(a)
    cdef cnp.npy_intp *strides = cnp.PyArray_STRIDES(a)
    return [cnp.PyArray_DATA(a), strides[0] // size, strides[1] // size, strides[2] // size]


cdef fsm_array slices_of(cnp.ndarray a) noexcept:
    """A 2-D array, of one element for each slice."""
    cdef cnp.npy_intp size = cnp.PyArray_ITEMSIZE(a)
    cdef cnp.npy_intp *strides = cnp.PyArray_STRIDES(a)
    return [cnp.PyArray_DATA(a), strides[0] // size, 0, strides[1] // size]


cdef void begin(fsm_call *call, cnp.ndarray x) noexcept:
    """A call on x, and nothing else yet."""
    memset(call, 0, sizeof(fsm_call))
    call.outer, call.length, call.inner = x.shape[0], x.shape[1], x.shape[2]
    call.x = elements(x)


cdef void begin_loss(
    fsm_call *call, x, class_weight, double label_smoothing, loss, grad, double scale
):
    loss.fill(0)  # of slices without classes
    begin(call, x)
    if class_weight is not None:
        call.weight.data = cnp.PyArray_DATA(class_weight)
    call.label_smoothing = label_smoothing
    call.slices = slices_of(loss)
    if grad is not None:
        call.out = elements(grad)
    call.scale = scale


cdef void begin_backward(fsm_call *call, grad, y, out):
    begin(call, y)
    call.other = elements(grad)
    call.out = elements(out)


cdef int launch_call(fsm_call_kernel *kernel, fsm_call *call, cnp.ndarray x) except -1:
    cdef size_t size = call.outer * call.length * call.inner
    cdef size_t itemsize = cnp.PyArray_ITEMSIZE(x)
    cdef int workers
    if size == 0:
        return 0
    if call.inner > 1:
        scratch = np.empty(fsm_scratch(call), x.dtype)
        call.scratch = cnp.PyArray_DATA(scratch)
    if size < RELEASE_FROM:
        kernel(call)
    elif size < 2 * FSM_SHARE:
        with nogil:
            kernel(call)
    else:
        workers = min(get_workers(), MOST_WORKERS)
        with nogil:
            fsm_run_call(kernel, call, itemsize, workers)
    return 0
