"""Softmax, log-softmax and log-sum-exp for NumPy arrays on the CPU, fast and right to a few ULP."""

from fastsoftmax import calibration
from fastsoftmax._config import show_config
from fastsoftmax._functions import IN_FORCE as _IN_FORCE
from fastsoftmax._workers import get_workers, set_workers

__all__ = [
    "__version__",
    "calibration",
    "cross_entropy",
    "get_workers",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "nll_loss",
    "predict",
    "set_workers",
    "show_config",
    "softmax",
    "softmax_backward",
    "softmax_grad_hess",
    "softmax_logsumexp",
    "top_k",
]

__version__ = "0.1.0"

softmax = _IN_FORCE.softmax
log_softmax = _IN_FORCE.log_softmax
logsumexp = _IN_FORCE.logsumexp
softmax_logsumexp = _IN_FORCE.softmax_logsumexp
predict = _IN_FORCE.predict
top_k = _IN_FORCE.top_k
cross_entropy = _IN_FORCE.cross_entropy
nll_loss = _IN_FORCE.nll_loss
softmax_backward = _IN_FORCE.softmax_backward
log_softmax_backward = _IN_FORCE.log_softmax_backward
softmax_grad_hess = _IN_FORCE.softmax_grad_hess
