"""`python -m fastsoftmax`: check the installed backend, then time it beside NumPy and SciPy."""

import argparse
import contextlib
import importlib.util
import itertools
import json
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fastsoftmax
from fastsoftmax import _selfcheck, _timing


def main(arguments: list[str] | None = None) -> int:
    """Run the whole job and return the exit status: 0, or 1 if the check failed."""
    options = _parse(arguments)
    fastsoftmax.show_config()

    errors, complaints = _check()
    print(f"\nWorst error in ULP of the exact result (at most {_selfcheck.ULP_BOUND:g} promised)")
    print(f"  {'':16}" + "".join(f"{dtype:>10}" for dtype in _selfcheck.DTYPES))
    for function, by_dtype in errors.items():
        print(f"  {function:16}" + "".join(f"{error:>10.3g}" for error in by_dtype.values()))
    if complaints:
        print("The check failed:", *complaints, sep="\n  ", file=sys.stderr)
        return 1
    print("  Special values and masked elements are as documented.\n")

    timings = _time()
    if options.json:
        report = {
            "config": fastsoftmax.show_config(mode="dicts"),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "worst_ulp": errors,
            "timings": [{**t.work._asdict(), "seconds": t.seconds} for t in timings],
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        from fastsoftmax import _plot

        _plot.save(timings, options.plot)
    print(*_timing.table(timings), sep="\n")
    return 0


def _check() -> tuple[dict[str, dict[str, float]], list[str]]:
    """The worst errors in ULP, and a line about each promise that is not kept."""
    with _progress(len(_selfcheck.CASES)) as step:
        errors = _selfcheck.worst_errors(fastsoftmax, step)
    complaints = [
        f"{function} ({dtype}) is off by {error:.3g} ULP"
        for function, by_dtype in errors.items()
        for dtype, error in by_dtype.items()
        if error > _selfcheck.ULP_BOUND
    ]
    return errors, complaints + _selfcheck.wrong_special_values(fastsoftmax)


def _time() -> list[_timing.Timing]:
    contestants = {
        "fastsoftmax": _timing.functions_of(fastsoftmax),
        "NumPy": _timing.functions_of(_timing.PlainNumPy),
    }
    try:
        contestants["SciPy"] = _timing.functions_of(importlib.import_module("scipy.special"))
    except ImportError:
        print("SciPy is not installed; the comparison goes without it.\n")
    timings = []
    # One worker, as the others have.
    with fastsoftmax.set_workers(1), _progress(len(_timing.WORKS)) as step:
        for work in _timing.WORKS:
            step(f"timing {work.function} {work.dtype}")
            timings.append(_timing.measure(contestants, work))
    return timings


@contextlib.contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], None]]:
    """Give a function to be called with a description before each step; it shows how far we are.

    On a terminal and with rich installed, that is a bar; otherwise, a line for each description.
    """
    if sys.stderr.isatty() and importlib.util.find_spec("rich"):
        from rich.console import Console
        from rich.progress import Progress

        done = itertools.count()
        # Without its refreshing thread, which would run beside what is being timed.
        with Progress(console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
            task = bar.add_task("", total=steps)
            yield lambda description: bar.update(
                task, description=description, completed=next(done), refresh=True
            )
    else:
        shown = ""

        def step(description: str) -> None:
            nonlocal shown
            if description != shown:
                print(f"{description} ...", file=sys.stderr)
                shown = description

        yield step


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fastsoftmax",
        description="Check the installed backend against an exact reference, then time it beside "
        "NumPy and SciPy. Takes about a quarter of a minute.",
    )
    parser.add_argument("--json", metavar="FILE", type=_writable, help="write all figures there")
    parser.add_argument(
        "--plot", metavar="FILE.png", type=_writable, help="draw the times (needs matplotlib)"
    )
    options = parser.parse_args(arguments)
    if options.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib, which is not installed: pip install matplotlib")
    if options.plot and options.plot.suffix.lower() != ".png":
        parser.error(f"--plot draws a .png file, not {options.plot}")
    return options


def _writable(name: str) -> Path:
    """The path of a file that can be written, found out before the work rather than after it."""
    path = Path(name)
    existed = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {name}: {error.strerror}") from None
    if not existed:
        path.unlink()
    return path


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
