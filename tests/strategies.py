"""Hypothesis strategies for what people pass to a softmax."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from layouts import LAYOUTS

REAL = ("float16", "float32", "float64", "longdouble")
COMPLEX = ("complex64", "complex128", "clongdouble")
INTEGER = ("bool", "int8", "uint8", "int16", "uint32", "int64", "uint64")

SPECIALS = (0.0, -0.0, 1e-40, 1.0, -700.0, 1e4, -1e4, 1e30, np.inf, -np.inf, np.nan)


def shapes(min_dims: int = 0) -> st.SearchStrategy:
    return npst.array_shapes(min_dims=min_dims, max_dims=4, min_side=0, max_side=6)


@st.composite
def axes(draw, ndim: int):
    """None, or one axis or several (or none) of an array of `ndim` dimensions, of either sign."""
    if ndim == 0:
        return draw(st.sampled_from([None, ()]))
    chosen = draw(st.lists(st.integers(0, ndim - 1), unique=True))
    signed = tuple(axis - draw(st.sampled_from([0, ndim])) for axis in chosen)
    return draw(st.sampled_from([None, signed, *signed[:1]]))


@st.composite
def arrays(draw, dtypes=REAL, min_dims: int = 0, specials: bool = True):
    """Arrays of the dtypes, of any shape, in any memory layout, mostly of ordinary logits."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(shapes(min_dims))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(0.0, draw(st.sampled_from([0.1, 5.0, 300.0])), shape)
    if dtype.kind == "c":
        values = values + 1j * rng.uniform(-4.0, 4.0, shape)
    elif dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    elif dtype.kind == "b":
        values = values > 0
    elif specials and draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(SPECIALS), min_size=1, max_size=3, unique_by=repr))
        values = np.where(rng.random(shape) < 0.3, rng.choice(chosen, shape), values)
    with np.errstate(all="ignore"):
        values = np.asarray(values).astype(dtype)
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](values)


@st.composite
def arrays_and_axes(draw, dtypes=REAL, min_dims: int = 0):
    x = draw(arrays(dtypes, min_dims))
    return x, draw(axes(x.ndim))
