"""Who takes part in the benchmarks, and that all of them compute the same thing."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

import peers
from fastsoftmax import _backend
from fastsoftmax._functions import Functions
from fastsoftmax._timing import Contestant, PlainNumPy, Work, functions_of


def contestants(threads: int = 1) -> dict[str, Contestant]:
    """All contestants by name, the best backend first: ratios are formed with its times.

    The peers may use so many threads, and fastsoftmax what `set_workers` says; NumPy and SciPy use
    one.
    """
    return {
        **{f"fastsoftmax-{name}": _ours(name) for name in _backend.available()},
        "numpy": functions_of(PlainNumPy),
        "scipy": functions_of(scipy.special),
        **peers.installed(threads),
    }


def able(everyone: dict[str, Contestant], work: Work) -> dict[str, Contestant]:
    """Those that compute in the dtype of this work."""
    return {
        name: contestant
        for name, contestant in everyone.items()
        if work.dtype not in peers.LACKING.get(name, ())
    }


def _ours(backend: str) -> Contestant:
    functions = Functions(_backend.get(backend))

    def prepare(function: str, x: Any, axis: int) -> Callable[[], Any]:
        out = peers.result_array(function, x, axis)
        options = {} if out is None else {"out": out}
        return functools.partial(getattr(functions, function), x, axis, **options)

    return prepare


def check(name: str, contestant: Contestant, work: Work) -> None:
    """Raise AssertionError unless the contestant's result is what the formula gives in float64.

    The tolerance lets every contestant's rounding errors pass, and no mistake; it grows with the
    slice, as some add its terms up one by one. It is absolute for a logarithm, because that is what
    a relative error of its argument becomes. Of large arrays, the first and the last slice are
    compared.
    """
    x, some, expected = _expected(work)
    got = np.asarray(contestant(work.function, x, work.axis)())
    info = np.finfo(x.dtype)
    length = x.shape[work.axis]
    tolerance = (50 if work.dtype == "float16" else 1000 + length / 1000) * info.eps
    assert got.dtype == x.dtype
    np.testing.assert_allclose(
        got[some].astype(np.float64),
        expected,
        rtol=tolerance,
        atol=4 * info.smallest_subnormal if work.function == "softmax" else tolerance,
        err_msg=f"{name}: {work}",
    )


@functools.lru_cache(maxsize=1)
def _expected(work: Work) -> tuple[Any, Any, Any]:
    """The logits, the part of the slices that is compared, and its exact results."""
    x = work.logits()
    large = x.size > 2**22 and work.axis in (-1, x.ndim - 1)
    some = [0, -1] if large else ...
    return x, some, getattr(PlainNumPy, work.function)(x[some].astype(np.float64), work.axis)
