"""New interpreters that run the very package under test, with environment variables of choice."""

import os
import subprocess
import sys
from pathlib import Path

import fastsoftmax

PACKAGE_FOLDER = Path(fastsoftmax.__file__).resolve().parents[1]


def run(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, and of our own variables with none but those given."""
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("FASTSOFTMAX_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=inherited | {"PYTHONPATH": str(PACKAGE_FOLDER)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # of what ends at all, none takes a tenth of that
    )


def output(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What Python prints, given these arguments, if all goes well and nothing is complained of."""
    done = run("-W", "error", *arguments, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
