"""Plain arrays: native, C-contiguous and not empty, whose calls take a quick way; what is soon made
so, and what else a quick way has to know of its arguments and to make for its results.

Whatever is not known here is left to the general way, which reports what is wrong with it.
"""

from cpython.long cimport PyLong_AsLongAndOverflow
from libc.math cimport INFINITY

cimport numpy as cnp

# Dimensions that a NumPy array can have.
cdef enum:
    MAX_NDIM = 64

# Elements up to which an array is copied to be plain: NumPy's ways take longer than the copy.
cdef enum:
    SMALL = 4096


cdef inline array_of_list(x):
    """A list as an array, if it can be one; anything else as it is."""
    if type(x) is not list:
        return x
    try:
        return cnp.PyArray_FROM_O(x)
    except Exception:  # which the general way has again, and reports
        return x


cdef inline cnp.ndarray exact_array(x):
    """A list as an array, or x if it is exactly an ndarray; else None."""
    x = array_of_list(x)
    return x if cnp.PyArray_CheckExact(x) else None


cdef inline bint is_plain(x) noexcept:
    """Whether x is exactly an ndarray, float32 or float64, native, C-contiguous and not empty."""
    if not cnp.PyArray_CheckExact(x):
        return False
    cdef int dtype = cnp.PyArray_TYPE(x)
    return (
        (dtype == cnp.NPY_FLOAT32 or dtype == cnp.NPY_FLOAT64)
        and cnp.PyArray_ISCARRAY_RO(x)
        and cnp.PyArray_NDIM(x) > 0
        and cnp.PyArray_SIZE(x) > 0
    )


cdef inline bint is_plain_turned(x) noexcept:
    """Whether x is exactly an ndarray, native, and Fortran-contiguous but not C-contiguous."""
    return (
        cnp.PyArray_CheckExact(x)
        and cnp.PyArray_ISFARRAY_RO(x)
        and not cnp.PyArray_ISCONTIGUOUS(x)
    )


cdef inline bint is_in_order(cnp.ndarray a) noexcept:
    """Whether each axis has a stride no larger than the one before, as in a new array."""
    cdef cnp.npy_intp *strides = cnp.PyArray_STRIDES(a)
    cdef int i
    for i in range(1, cnp.PyArray_NDIM(a)):
        if abs(strides[i]) > abs(strides[i - 1]):
            return False
    return True


cdef inline plain_copy(x, asked):
    """A small array, whose axes lie in memory in their order, as a plain one; else None.

    It has the dtype that is `asked` for, if that is one of the kernels' and holds all of x.
    """
    cdef cnp.ndarray a
    cdef int dtype, wide
    if not cnp.PyArray_CheckExact(x):
        return None
    a = <cnp.ndarray> x
    if cnp.PyArray_SIZE(a) > SMALL or not is_in_order(a):
        return None
    dtype = cnp.PyArray_TYPE(a)
    if cnp.PyArray_ISINTEGER(a) or cnp.PyArray_ISBOOL(a):
        dtype = cnp.NPY_FLOAT64
    elif dtype not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64, cnp.NPY_FLOAT16):
        return None
    if asked is not None:
        wide = dtype_number(asked)
        if wide not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64) or not cnp.PyArray_CanCastSafely(
            dtype, wide
        ):
            return None
        dtype = wide
    return cnp.PyArray_FROM_OTF(a, dtype, cnp.NPY_ARRAY_CARRAY | cnp.NPY_ARRAY_FORCECAST)


cdef inline soon_plain(x):
    """A plain copy of a list or small array of float32 or float64; else x."""
    if is_plain(x):
        return x
    cdef cnp.ndarray given = exact_array(x)
    copy = plain_copy(given, None) if given is not None and cnp.PyArray_ISFLOAT(given) else None
    return copy if is_plain(copy) else x


cdef inline whole_mask(where, cnp.ndarray x):
    """A mask that may be broadcast to the shape of x, in that shape; any other `where` as it is."""
    cdef cnp.ndarray mask
    if (
        not cnp.PyArray_CheckExact(where)
        or cnp.PyArray_TYPE(where) != cnp.NPY_BOOL
        or cnp.PyArray_NDIM(where) > cnp.PyArray_NDIM(x)
    ):
        return where
    mask = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.NPY_BOOL, 0)
    try:
        mask[...] = where
    except ValueError:  # which the general way reports
        return where
    return mask


cdef inline bint may_receive(out, cnp.ndarray x) noexcept:
    """Whether out is a place for a result like the plain array x: x itself, or apart from it."""
    return is_place(out, x, cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x)) and (
        are_same(out, x) or are_apart(out, x)
    )


cdef inline bint is_place(out, cnp.ndarray x, int ndim, cnp.npy_intp *shape) noexcept:
    """Whether out is a plain array to write to, of the dtype of x and this shape."""
    cdef cnp.ndarray a
    if not cnp.PyArray_CheckExact(out):
        return False
    a = <cnp.ndarray> out
    return (
        cnp.PyArray_TYPE(a) == cnp.PyArray_TYPE(x)
        and cnp.PyArray_ISCARRAY(a)
        and cnp.PyArray_NDIM(a) == ndim
        and cnp.PyArray_CompareLists(cnp.PyArray_DIMS(a), shape, ndim)
    )


cdef inline bint are_same(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether two contiguous arrays of one shape and dtype are the same memory."""
    return cnp.PyArray_DATA(a) == cnp.PyArray_DATA(b)


cdef inline bint are_apart(cnp.ndarray a, b) noexcept:
    """Whether b is a contiguous array, and has no byte in common with another, a."""
    cdef const char *of_a = <const char *> cnp.PyArray_DATA(a)
    cdef const char *of_b
    cdef cnp.ndarray other
    if not cnp.PyArray_CheckExact(b):
        return False
    other = <cnp.ndarray> b
    of_b = <const char *> cnp.PyArray_DATA(other)
    return cnp.PyArray_ISCARRAY_RO(other) and (
        of_a + cnp.PyArray_NBYTES(a) <= of_b or of_b + cnp.PyArray_NBYTES(other) <= of_a
    )


cdef inline bint is_like(cnp.ndarray a, cnp.ndarray x) noexcept:
    """Whether a has the shape and dtype of x."""
    return cnp.PyArray_TYPE(a) == cnp.PyArray_TYPE(x) and cnp.PyArray_SAMESHAPE(a, x)


cdef inline bint is_row_of(cnp.ndarray a, cnp.ndarray x) noexcept:
    """Whether a is a vector as long as the rows of x, and of its dtype."""
    return (
        cnp.PyArray_TYPE(a) == cnp.PyArray_TYPE(x)
        and cnp.PyArray_NDIM(a) == 1
        and cnp.PyArray_DIM(a, 0) == cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
    )


cdef inline int from_the_front(axis, int ndim) noexcept:
    """An axis given as an int, counted from the front; -1 for any other."""
    cdef int overflow
    cdef long place
    if type(axis) is not int:
        return -1
    place = PyLong_AsLongAndOverflow(axis, &overflow)
    if place < 0:
        place += ndim
    return place if overflow == 0 and 0 <= place < ndim else -1


cdef inline double as_divisor(temperature) noexcept:
    """A temperature that is a number and that the kernels take; 0 for any other."""
    cdef int overflow = 0
    cdef double divisor = 0
    if isinstance(temperature, float):
        divisor = temperature
    elif type(temperature) is int:
        divisor = PyLong_AsLongAndOverflow(temperature, &overflow)
    return divisor if overflow == 0 and 2.0**-60 <= divisor <= 2.0**60 else 0


cdef inline bint is_dtype_of(dtype, cnp.ndarray x):
    """Whether dtype stands for the dtype of x."""
    try:
        return cnp.dtype(dtype) is x.descr
    except TypeError:
        return False


cdef inline int dtype_number(dtype):
    """NumPy's number of what stands for a native dtype; -1 if nothing does."""
    try:
        asked = cnp.dtype(dtype)
        return asked.num if asked.isnative else -1
    except TypeError:
        return -1


cdef inline bint is_reduction(reduction):
    return type(reduction) is str and reduction in ("mean", "sum", "none")


cdef inline cnp.ndarray labels_of_slices(
    target, cnp.ndarray logits, axis, bint ignores, ignore_index
):
    """Integers that are a class for each slice, or no class where it `ignores` them; else None.

    Perhaps the target itself. The kernels look again whether a label is in range, as other threads
    may write to it meanwhile.
    """
    cdef cnp.ndarray labels
    cdef cnp.npy_int64 *label
    cdef cnp.npy_int64 ignored
    cdef cnp.npy_intp classes, i
    cdef cnp.npy_uint64 signs = 0
    cdef bint ignores_class
    cdef int place = from_the_front(axis, cnp.PyArray_NDIM(logits)), k
    labels = exact_array(target)
    if (
        labels is None
        or not cnp.PyArray_ISINTEGER(labels)
        or (cnp.PyArray_ISUNSIGNED(labels) and cnp.PyArray_ITEMSIZE(labels) > 4)
        or cnp.PyArray_NDIM(labels) != cnp.PyArray_NDIM(logits) - 1
    ):
        return None
    for k in range(cnp.PyArray_NDIM(labels)):
        if cnp.PyArray_DIM(labels, k) != cnp.PyArray_DIM(logits, k if k < place else k + 1):
            return None
    if type(ignore_index) is not int or not -(2**63) <= ignore_index < 2**63:
        return None
    ignored = ignore_index
    classes = cnp.PyArray_DIM(logits, place)
    ignores_class = ignores and 0 <= ignored < classes
    labels = cnp.PyArray_FROM_OTF(
        labels,
        cnp.NPY_INT64,
        cnp.NPY_ARRAY_IN_ARRAY | (cnp.NPY_ARRAY_ENSURECOPY if ignores_class else 0),
    )
    label = <cnp.npy_int64 *> cnp.PyArray_DATA(labels)
    # Most often all are classes, and then the sign of either operand is never set.
    for i in range(cnp.PyArray_SIZE(labels)):
        signs |= <cnp.npy_uint64> label[i] | <cnp.npy_uint64> classes - 1 - label[i]
    if signs >> 63 == 0 and not ignores_class:
        return labels
    for i in range(cnp.PyArray_SIZE(labels)):
        if ignores and label[i] == ignored:
            if ignores_class:
                label[i] = -1
        elif not 0 <= label[i] < classes:
            return None
    return labels


cdef inline cnp.ndarray copied_weights(weight, cnp.npy_intp count):
    """A copy of so many weights in float64, if they are finite and not negative; else None."""
    cdef cnp.ndarray weights
    cdef const double *value
    cdef const cnp.npy_uint64 *bits
    cdef cnp.npy_uint64 signs = 0
    cdef cnp.npy_intp i
    cdef bint is_wrong = False
    weights = exact_array(weight)
    if (
        weights is None
        or not cnp.PyArray_ISINTEGER(weights)
        and cnp.PyArray_TYPE(weights) not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64)
        or cnp.PyArray_NDIM(weights) != 1
        or cnp.PyArray_DIM(weights, 0) != count
    ):
        return None
    weights = cnp.PyArray_FROM_OTF(
        weights, cnp.NPY_FLOAT64, cnp.NPY_ARRAY_CARRAY | cnp.NPY_ARRAY_ENSURECOPY
    )
    value = <const double *> cnp.PyArray_DATA(weights)
    bits = <const cnp.npy_uint64 *> value
    # Most often no sign is set, nor would one be by adding 1 to the exponent, as for inf and NaN.
    for i in range(count):
        signs |= bits[i] | bits[i] + (<cnp.npy_uint64> 1 << 52)
    if signs >> 63 == 0:
        return weights
    for i in range(count):
        is_wrong |= not 0 <= value[i] < INFINITY
    return None if is_wrong else weights


cdef inline cnp.ndarray new_like(cnp.ndarray x):
    """A new contiguous array of the shape and dtype of x."""
    return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)


cdef inline cnp.ndarray new_slices(cnp.ndarray x, axis, int dtype):
    """A new array with an element for each slice of x along this axis."""
    cdef cnp.npy_intp[MAX_NDIM] shape
    cdef int ndim = cnp.PyArray_NDIM(x), place = from_the_front(axis, ndim), i
    for i in range(ndim - 1):
        shape[i] = cnp.PyArray_DIM(x, i if i < place else i + 1)
    return cnp.PyArray_EMPTY(ndim - 1, shape, dtype, 0)


cdef inline array_or_scalar(cnp.ndarray result):
    return result[()] if cnp.PyArray_NDIM(result) == 0 else result


cdef inline scalar_like(cnp.ndarray x, double value):
    """A NumPy scalar of the dtype of x, float32 or float64."""
    cdef float narrow = <float> value
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32:
        return cnp.PyArray_ToScalar(&narrow, x)
    return cnp.PyArray_ToScalar(&value, x)
