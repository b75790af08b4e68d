"""Where results are kept: the machine they belong to, and the places in the documents."""

import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

LIBRARIES = ("numpy", "scipy", "torch", "onnxruntime", "openvino", "jax", "numba")


def machine() -> dict[str, Any]:
    """What the figures depend on beside the code."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": dict(_versions()),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def machine_in_words(machine: dict[str, Any]) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    return (
        f"Measured on {machine['date']}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, Python {machine['python']}, {libraries}."
    )


def markdown(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a table whose first row is the header and whose first column is text."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for index, row in enumerate(rows):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "| " + " | ".join([first.strip().ljust(widths[0]), *others]) + " |"
        if index == 0:
            yield (
                "|"
                + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths))
                + "|"
            )


def put(document: str, block: str, lines: Iterable[str]) -> None:
    """Replace what stands between `<!-- block -->` and `<!-- end of block -->`."""
    path = ROOT / document
    pattern = re.compile(rf"(<!-- {block} -->\n).*?(<!-- end of {block} -->)", re.DOTALL)
    text = "\n".join(lines)
    new, count = pattern.subn(
        lambda match: f"{match[1]}\n{text}\n\n{match[2]}", path.read_text(encoding="utf-8")
    )
    if count != 1:
        raise ValueError(f"{document} has {count} blocks called {block}, need 1")
    path.write_text(new, encoding="utf-8")


def _processor() -> str:
    """Its name, and the numbers that tell apart those that share it."""
    try:
        with open("/proc/cpuinfo", encoding="ascii") as file:
            lines = [line.partition(":") for line in file.read().partition("\n\n")[0].splitlines()]
        about = {name.strip(): value.strip() for name, _, value in lines}
        return f"{about['model name']} (family {about['cpu family']}, model {about['model']})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def _versions() -> Iterator[tuple[str, str]]:
    for name in LIBRARIES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
