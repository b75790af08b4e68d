# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: freethreading_compatible=True
"""The compiled kernels, behind the interface of `_fallback`.

Typed memoryviews in, one C call, nothing decided here.
"""

import numpy as np

from fastsoftmax._workers import get_workers

cimport numpy as cnp

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

# Dimensions that a NumPy array can have.
cdef enum:
    MAX_NDIM = 64

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

    def softmax_lane(self, x, axis, out):
        """Softmax of a plain array along one axis or all; None for any other call."""
        return self._lane(SOFTMAX, x, axis, out)

    def log_softmax_lane(self, x, axis, out):
        """Log-softmax of a plain array along one axis or all; None for any other call."""
        return self._lane(LOG_SOFTMAX, x, axis, out)

    def logsumexp_lane(self, x, axis):
        """Log-sum-exp of a plain array along one axis or all; None for any other call."""
        return self._lane(LOGSUMEXP, x, axis, None)

    @property
    def dtypes(self):
        """Names of the dtypes that the kernels take."""
        wide = ("float32", "float64")
        return wide if self._backend.f16 is NULL else wide + ("float16", "bfloat16")

    cdef _call(self, function which, x, out, temperature, where):
        if where is not None:
            where = where.view(np.uint8)
        if x.dtype == np.float32:
            run[float](kernel(self._backend.f32, which), x, out, temperature, where)
        elif x.dtype == np.float64:
            run[double](kernel(self._backend.f64, which), x, out, temperature, where)
        else:
            run["unsigned short"](
                kernel(self._backend.f16 if x.dtype == np.float16 else self._backend.bf16, which),
                x.view(np.uint16), out.view(np.uint16), temperature, where,
            )

    cdef const fsm_kernels *_plain_kernels(self, x) noexcept:
        """The kernels for exactly an ndarray, native, C-contiguous and not empty; else NULL."""
        if not cnp.PyArray_CheckExact(x):
            return NULL
        if (
            not cnp.PyArray_ISCARRAY_RO(x)
            or cnp.PyArray_NDIM(x) == 0
            or cnp.PyArray_SIZE(x) == 0
        ):
            return NULL
        cdef int dtype = cnp.PyArray_TYPE(x)
        if dtype == cnp.NPY_FLOAT32:
            return self._backend.f32
        if dtype == cnp.NPY_FLOAT64:
            return self._backend.f64
        if dtype == cnp.NPY_FLOAT16:
            return self._backend.f16
        return NULL

    cdef _lane(self, function which, x, axis, out):
        cdef const fsm_kernels *kernels = self._plain_kernels(x)
        cdef int ndim, first, last, i
        cdef cnp.npy_intp[MAX_NDIM] shape
        cdef cnp.ndarray source, result
        cdef fsm_slices slices
        if kernels is NULL:
            return None
        source = x
        ndim = source.ndim
        if axis is None:
            first, last = 0, ndim - 1
        elif type(axis) is int and -ndim <= axis < ndim:
            first = last = axis if axis >= 0 else axis + ndim
        else:
            return None
        slices.outer = slices.length = slices.inner = 1
        for i in range(ndim):
            if i < first:
                slices.outer *= source.shape[i]
            elif i <= last:
                slices.length *= source.shape[i]
            else:
                slices.inner *= source.shape[i]

        if out is None:
            if which == LOGSUMEXP:
                for i in range(first):
                    shape[i] = source.shape[i]
                for i in range(last + 1, ndim):
                    shape[i - last - 1 + first] = source.shape[i]
                ndim -= last + 1 - first
            else:
                for i in range(ndim):
                    shape[i] = source.shape[i]
            result = cnp.PyArray_EMPTY(ndim, shape, cnp.PyArray_TYPE(source), 0)
        elif self._plain_kernels(out) is not NULL and may_receive(out, source):
            result = out
        else:
            return None

        slices.x = cnp.PyArray_DATA(source)
        slices.out = cnp.PyArray_DATA(result)
        slices.x_length = slices.out_length = slices.inner
        slices.x_outer = slices.length * slices.inner
        slices.out_outer = slices.inner if which == LOGSUMEXP else slices.x_outer
        slices.temperature = NULL
        slices.where = NULL
        launch(kernel(kernels, which), &slices, cnp.PyArray_ITEMSIZE(source))
        return result[()] if cnp.PyArray_NDIM(result) == 0 else result


cdef fsm_kernel *kernel(const fsm_kernels *kernels, function which) noexcept:
    if which == SOFTMAX:
        return kernels.softmax
    if which == LOG_SOFTMAX:
        return kernels.log_softmax
    return kernels.logsumexp


cdef bint may_receive(cnp.ndarray out, cnp.ndarray x) noexcept:
    """Whether the plain array `out` fits x and is x's memory or disjoint from it."""
    cdef const char *source = <const char *> cnp.PyArray_DATA(x)
    cdef const char *target = <const char *> cnp.PyArray_DATA(out)
    cdef Py_ssize_t nbytes = cnp.PyArray_NBYTES(x)
    return (
        cnp.PyArray_TYPE(out) == cnp.PyArray_TYPE(x)
        and cnp.PyArray_ISWRITEABLE(out)
        and cnp.PyArray_SAMESHAPE(out, x)
        and (source == target or source + nbytes <= target or target + nbytes <= source)
    )


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


cdef int launch(fsm_kernel *kernel, const fsm_slices *slices, size_t itemsize) except -1:
    cdef size_t size = slices.outer * slices.length * slices.inner
    cdef int workers
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
