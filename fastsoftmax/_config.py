"""What is installed here, in words."""

from typing import Any

import numpy as np

import fastsoftmax
from fastsoftmax import _backend


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show the version, the backend in force, and the backends that work here.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, optional
        ``"stdout"`` (the default) prints the configuration, ``"dicts"`` returns it.

    Returns
    -------
    config : dict or None
        With ``mode="dicts"``, a dictionary of strings, in which ``"backends"`` is a dictionary
        that says of each backend whether it works here, and if not, why.

    Raises
    ------
    ValueError
        If `mode` is neither ``"stdout"`` nor ``"dicts"``.

    Notes
    -----
    The best backend that works is chosen when the package is imported. The environment variable
    ``FASTSOFTMAX_BACKEND`` forces one by its name; one that does not work here is an error.

    Examples
    --------
    >>> import fastsoftmax
    >>> config = fastsoftmax.show_config(mode="dicts")
    >>> config["backend"] in config["backends"]
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    choice = _backend.ACTIVE
    config = {
        "fastsoftmax": fastsoftmax.__version__,
        "numpy": np.__version__,
        "backend": choice.kernels.name,
        "reason": choice.reason,
        "backends": {name: _status(name) for name in _backend.BACKENDS},
    }
    if mode == "dicts":
        return config
    print(f"fastsoftmax {config['fastsoftmax']} with NumPy {config['numpy']}")
    print(f"  backend in force: {config['backend']} ({config['reason']})")
    for name in _backend.BACKENDS:
        print(f"  {name + ':':10} {_status(name)}")
    return None


def _status(name: str) -> str:
    if name in _backend.available():
        return "available"
    if _backend.EXTENSION_ERROR is not None:
        return f"missing: the compiled extension cannot be imported ({_backend.EXTENSION_ERROR})"
    return "not supported by this processor and operating system"
