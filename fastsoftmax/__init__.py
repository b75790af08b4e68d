"""Softmax, log-softmax and log-sum-exp for NumPy arrays on the CPU, fast and right to a few ULP."""

from fastsoftmax._config import show_config
from fastsoftmax._functions import IN_FORCE as _IN_FORCE
from fastsoftmax._workers import get_workers, set_workers

__all__ = [
    "__version__",
    "get_workers",
    "log_softmax",
    "logsumexp",
    "set_workers",
    "show_config",
    "softmax",
]

__version__ = "0.1.0"

softmax = _IN_FORCE.softmax
log_softmax = _IN_FORCE.log_softmax
logsumexp = _IN_FORCE.logsumexp
