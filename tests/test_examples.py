"""The example runs, on real data, and its figures are those of a good classifier."""

import re
from pathlib import Path

import pytest

import child

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits.py"


def test_digits(tmp_path):
    """It compares its softmax with the model's own probabilities, and fails if they differ."""
    shown = child.output(
        DIGITS,
        "--output",
        "picture.png",
        cwd=tmp_path,
        MPLBACKEND="agg",
        MPLCONFIGDIR=str(tmp_path / "matplotlib"),
    )
    figures = {
        name: float(value) for name, value in re.findall(r"^(\S.*?) {2,}([\d.]+)$", shown, re.M)
    }
    assert figures["held-out digits"] == pytest.approx(899, abs=1)
    assert 0.94 < figures["accuracy"] < 1
    assert 0.05 < figures["mean log-loss"] < 0.3
    assert 0.8 < figures["mean of the largest softmax"] < 1
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
