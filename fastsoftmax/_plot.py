"""The picture of `python -m fastsoftmax --plot`: the one module that needs matplotlib."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fastsoftmax._selfcheck import DTYPES, FUNCTIONS
from fastsoftmax._timing import Timing

# Okabe and Ito's colours are told apart with any colour vision, the markers without any.
_STYLES = (("#0072b2", "o"), ("#e69f00", "s"), ("#009e73", "^"))


def save(timings: Sequence[Timing], path: Path) -> None:
    """Draw each contestant's time per element, with one panel for each function and dtype."""
    figure = Figure(figsize=(11, 8), dpi=150, layout="constrained")
    panels = figure.subplots(len(DTYPES), len(FUNCTIONS), sharex=True, sharey=True, squeeze=False)
    for dtype, row in zip(DTYPES, panels, strict=True):
        for function, panel in zip(FUNCTIONS, row, strict=True):
            shown = [
                timing
                for timing in timings
                if (timing.work.function, timing.work.dtype) == (function, dtype)
            ]
            for name, (color, marker) in zip(shown[0].seconds, _STYLES, strict=False):
                panel.plot(
                    [timing.seconds[name] / math.prod(timing.work.shape) * 1e9 for timing in shown],
                    [f"{timing.work.shape}, axis {timing.work.axis}" for timing in shown],
                    linestyle="none",
                    marker=marker,
                    markersize=10,
                    markerfacecolor="none",  # equal times remain visible, one through another
                    markeredgewidth=2.5,
                    color=color,
                    label=name,
                )
            panel.set_title(f"{function}, {dtype}", fontsize=14)
            panel.set_xscale("log")
            panel.grid(alpha=0.4)
            panel.tick_params(labelsize=12)
    panels[0, 0].invert_yaxis()
    figure.supxlabel("time per element of one call [ns]: further left is faster", fontsize=14)
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=13
    )
    figure.savefig(path)
