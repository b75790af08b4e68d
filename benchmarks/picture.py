"""The picture of the comparison: time per element against the length of a row."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fastsoftmax._timing import Timing

# Okabe and Ito's colours are told apart with any colour vision, the markers without any.
STYLES = {
    "fastsoftmax-avx512": {"color": "#0072b2", "marker": "o", "linewidth": 3.5},
    "fastsoftmax-avx2": {"color": "#56b4e9", "marker": "o", "linewidth": 3.5},
    "fastsoftmax-scalar": {"color": "#56b4e9", "marker": ".", "linestyle": ":"},
    "fastsoftmax-numpy": {"color": "#0072b2", "marker": ".", "linestyle": ":"},
    "copy": {"color": "black", "marker": "", "linestyle": "--", "linewidth": 2.5},
    "onnxruntime": {"color": "#d55e00", "marker": "s"},
    "pytorch": {"color": "#e69f00", "marker": "^"},
    "openvino": {"color": "#cc79a7", "marker": "D"},
    "jax": {"color": "#009e73", "marker": "v"},
    "numba": {"color": "#8c8c8c", "marker": "P"},
    "numpy": {"color": "black", "marker": "x", "linewidth": 1},
    "scipy": {"color": "black", "marker": "+", "linewidth": 1, "linestyle": "-."},
}
NAMES = {
    "copy": "a copy of the array",
    "onnxruntime": "ONNX Runtime",
    "pytorch": "PyTorch",
    "openvino": "OpenVINO",
    "jax": "JAX",
    "numba": "Numba loops",
    "numpy": "NumPy formula",
    "scipy": "SciPy",
}


def save(timings: Sequence[Timing], path: Path) -> None:
    """Draw one line for each contestant over works that differ in the length of their rows."""
    figure = Figure(figsize=(12, 7.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    lengths = [timing.work.shape[-1] for timing in timings]
    for order, (name, style) in enumerate(STYLES.items()):
        if name in timings[0].seconds:
            axes.loglog(
                lengths,
                [timing.seconds[name] / math.prod(timing.work.shape) * 1e9 for timing in timings],
                label=NAMES.get(name, name.replace("-", " ")),
                zorder=len(STYLES) - order + 2,  # the first of them over the others
                **{"linewidth": 2, "markersize": 9, **style},
            )
    work = timings[0].work
    axes.set_title(f"{work.function}, {work.dtype}, along the last axis", fontsize=18)
    axes.set_xlabel("length of a row [elements]", fontsize=17)
    axes.set_ylabel("time per element [ns]", fontsize=17)
    axes.tick_params(labelsize=16)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(which="major", alpha=0.5)
    axes.grid(which="minor", axis="y", alpha=0.2)
    figure.legend(loc="outside right center", fontsize=15, frameon=False)
    figure.savefig(path)
