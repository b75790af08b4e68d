"""Logits of every magnitude and shape that matters to an error bound, as a table by name."""

from collections.abc import Callable

import numpy as np

Make = Callable[[np.random.Generator, tuple[int, int], np.dtype], np.ndarray]


def normal(deviation: float, centre: float = 0.0) -> Make:
    return lambda rng, shape, dtype: rng.normal(centre, deviation, shape)


def constant(value: float) -> Make:
    return lambda rng, shape, dtype: np.full(shape, value)


def one_dominates_by(lead: float) -> Make:
    def make(rng, shape, dtype):
        x = rng.normal(-lead, 1.0, shape)
        x[np.arange(shape[0]), rng.integers(shape[1], size=shape[0])] = 0.0
        return x

    return make


def ascending(rng, shape, dtype):
    return np.sort(rng.normal(0.0, 10.0, shape), axis=1)


def descending(rng, shape, dtype):
    return ascending(rng, shape, dtype)[:, ::-1]


def denormal_results(rng, shape, dtype):
    """Softmax values from the smallest normal number down to half the smallest denormal one."""
    smallest, normal = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).smallest_normal
    x = rng.uniform(np.log(smallest) - np.log(2), np.log(normal), shape)
    x[:, shape[1] // 2] = 0.0
    return x


def half_masked(rng, shape, dtype):
    """Attention scores under a causal mask: the rest of each row is -inf."""
    x = rng.normal(0.0, 5.0, shape)
    x[:, shape[1] // 2 + 1 :] = -np.inf
    return x


def all_that_is_finite(rng, shape, dtype):
    return rng.uniform(-1.0, 1.0, shape) * np.finfo(dtype).max


LOGITS: dict[str, Make] = {
    **{f"normal {deviation:g}": normal(deviation) for deviation in np.logspace(-3, 3, 7)},
    "all zero": constant(0.0),
    "all one third": constant(1 / 3),
    "all -12345.678": constant(-12345.678),
    "one dominates by 10": one_dominates_by(10.0),
    "one dominates by 40": one_dominates_by(40.0),
    "one dominates by 700": one_dominates_by(700.0),
    "ascending": ascending,
    "descending": descending,
    "around 1e4": normal(5.0, 1e4),
    "around -1e4": normal(5.0, -1e4),
    "around 2^14 log 2": normal(5.0, 2**14 * np.log(2)),  # whose exponential has exponent 2^14
    "around 1e6": normal(5.0, 1e6),
    "as large as 1e4": normal(1e4),
    "as large as 1e6": normal(1e6),
    "around 1e30": normal(1e23, 1e30),
    "around -1e30": normal(1e23, -1e30),
    "as large as 1e30": normal(1e30),
    "around 1e300": normal(1e285, 1e300),
    "as large as 1e300": normal(1e300),
    "all that is finite": all_that_is_finite,
    "denormal logits": normal(1e-40),
    "denormal results": denormal_results,
    "half masked": half_masked,
}


FLOAT64_ONLY = {"around 1e300", "as large as 1e300"}

CASES = [
    (name, dtype)
    for name in LOGITS
    for dtype in (["float64"] if name in FLOAT64_ONLY else ["float32", "float64"])
]


def make(name: str, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Rows of the logits called `name`, the same ones at every call."""
    rng = np.random.default_rng([*name.encode(), *shape])
    return LOGITS[name](rng, shape, np.dtype(dtype)).astype(dtype)
