"""The example runs, on real data, and its figures are those of a good classifier."""

import re
from pathlib import Path

import pytest

import child

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits.py"


@pytest.fixture(scope="module")
def matplotlib_folder(tmp_path_factory):
    """A place for what matplotlib finds out about fonts, which takes it seconds."""
    return tmp_path_factory.mktemp("matplotlib")


def test_digits(backend, tmp_path, matplotlib_folder):
    """It compares its softmax with the model's own probabilities, and fails if they differ."""
    shown = child.output(
        DIGITS,
        "--output",
        "picture.png",
        cwd=tmp_path,
        FASTSOFTMAX_BACKEND=backend,
        MPLBACKEND="agg",
        MPLCONFIGDIR=str(matplotlib_folder),
    )
    figures = {
        name: float(value) for name, value in re.findall(r"^(\S.*?) {2,}([\d.]+)$", shown, re.M)
    }
    assert figures["held-out digits"] == pytest.approx(899, abs=1)
    assert 0.94 < figures["accuracy"] < 1
    assert 0.05 < figures["mean log-loss"] < 0.3
    assert 0.8 < figures["mean of the largest softmax"] < 1
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
