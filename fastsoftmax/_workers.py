"""How many threads a call may use: what was asked for, and how many CPUs there are."""

import contextlib
import math
import operator
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

VARIABLE = "FASTSOFTMAX_NUM_THREADS"
"""The environment variable that says how many; empty means unset."""

_asked: ContextVar[int | None] = ContextVar("fastsoftmax_workers", default=None)


@contextlib.contextmanager
def set_workers(workers: int) -> Iterator[None]:
    """Context manager for the number of threads that calls within may use.

    Parameters
    ----------
    workers : int
        At most so many threads, the calling one included. A negative number counts back from the
        CPUs that the process may use: -1 stands for all of them, -2 for all but one.

    Raises
    ------
    TypeError
        If `workers` is not an integer.
    ValueError
        If it is 0, or negative and no CPU is left.

    See Also
    --------
    get_workers : the number in force.

    Notes
    -----
    It applies to the thread, or the asynchronous task, that enters it, and not to others. As in
    `scipy.fft`, from where its manner is, it is an upper bound: small arrays, and a limit on
    OpenMP's threads, make a call use fewer. The results are the same whatever the number.

    Examples
    --------
    >>> import fastsoftmax
    >>> with fastsoftmax.set_workers(1):
    ...     print(fastsoftmax.get_workers())
    1
    """
    token = _asked.set(_count("workers", workers))
    try:
        yield
    finally:
        _asked.reset(token)


def get_workers() -> int:
    """The number of threads that a call may use here and now, before OpenMP's own limit.

    Returns
    -------
    int
        What the innermost `set_workers` asks for; outside of any, what ``FASTSOFTMAX_NUM_THREADS``
        or else ``OMP_NUM_THREADS`` said when the package was imported; without these, the number
        of CPUs that the process may use.

    See Also
    --------
    set_workers : change it.

    Examples
    --------
    >>> import fastsoftmax
    >>> fastsoftmax.get_workers() >= 1
    True
    """
    return _asked.get() or _DEFAULT or available_cpus()


def available_cpus() -> int:
    """The CPUs that this process may use: by its affinity, and by the limit of its container."""
    cpus: int | None
    if sys.version_info >= (3, 13):
        cpus = os.process_cpu_count()  # the affinity's, or what the user told Python that it is
    elif hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count()
    return min(cpus or 1, _CONTAINER_CPUS or sys.maxsize)


def cpu_quota(root: Path) -> int | None:
    """How many CPUs' time the Linux control groups of this process allow, or None for any.

    `root` is where the file system begins. A fraction of a CPU counts as a whole one.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return None
    limits = []
    for line in groups:
        if line.count(":") < 2:
            continue
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, limit = root / "sys/fs/cgroup", _limit_of_version_2
        elif "cpu" in controllers.split(","):
            mount, limit = root / "sys/fs/cgroup/cpu", _limit_of_version_1
        else:
            continue
        # A group is bound by those above it too. A container may be told its path as it is outside,
        # where there is nothing inside; what then counts is the mount point.
        folder = mount / group.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(mount):
                # Whatever cannot be read or understood is no limit.
                with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                    limits.append(limit(place))
    return max(1, math.ceil(min(limits))) if limits else None


def _limit_of_version_2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)  # "max", which is no integer, stands for none


def _limit_of_version_1(folder: Path) -> float:
    quota, period = (
        int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
    )
    if quota < 0:
        raise ValueError("there is none")
    return quota / period


def _count(name: str, workers: int) -> int:
    """A number of threads, from what stands for it in an argument or variable of that name."""
    try:
        number = operator.index(workers)
    except TypeError:
        kind = type(workers).__name__
        raise TypeError(f"{name} must be an integer, not {kind}") from None
    if number == 0:
        raise ValueError(f"{name} must not be 0: it is a positive number, or -1 for all CPUs")
    if number > 0:
        return number
    cpus = available_cpus()
    if number < -cpus:
        raise ValueError(f"{name} is {number}, need at least {-cpus}: there are {cpus} CPUs")
    return cpus + 1 + number


def _default() -> int | None:
    """What the environment asks for."""
    if text := os.environ.get(VARIABLE):
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"{VARIABLE}={text!r} is not an integer") from None
        return _count(VARIABLE, number)
    # For each level of nesting one; what is no number is OpenMP's to complain of.
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(text) or None if text.isascii() and text.isdecimal() and len(text) < 10 else None


_CONTAINER_CPUS = cpu_quota(Path("/"))
_DEFAULT = _default()
