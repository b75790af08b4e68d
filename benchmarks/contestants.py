"""Who takes part in the benchmarks, and that all of them compute the same thing."""

import numpy as np
import scipy.special

from fastsoftmax import _backend
from fastsoftmax._functions import Functions
from fastsoftmax._timing import Contestant, PlainNumPy, Work, functions_of

# Best backend first: ratios are formed with its times.
CONTESTANTS: dict[str, Contestant] = {
    **{
        f"fastsoftmax-{name}": functions_of(Functions(_backend.get(name)))
        for name in _backend.available()
    },
    "numpy": functions_of(PlainNumPy),
    "scipy": functions_of(scipy.special),
}


def check(name: str, work: Work) -> None:
    """Raise AssertionError unless the contestant's result is what the formula gives in float64.

    The tolerance lets every contestant's rounding errors pass, and no mistake. It is absolute for a
    logarithm, because that is what a relative error of its argument becomes.
    """
    x = work.logits()
    got = np.asarray(CONTESTANTS[name](work.function, x, work.axis)())
    expected = getattr(PlainNumPy, work.function)(x.astype(np.float64), work.axis)
    tolerance = 1000 * np.finfo(x.dtype).eps
    assert got.dtype == x.dtype
    np.testing.assert_allclose(
        got,
        expected,
        rtol=tolerance,
        atol=0 if work.function == "softmax" else tolerance,
        err_msg=f"{name}: {work}",
    )
