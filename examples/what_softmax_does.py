"""What softmax does: from the logits of a classifier to positive numbers that sum to 1.

    python examples/what_softmax_does.py --output pictures

A logistic regression learns to tell from which of three cultivars a wine was pressed; scikit-learn
brings the data. Its decision values are logits: real numbers, of which the largest names the class.
Softmax makes of them positive numbers that sum to 1. This program shows, on a wine that is not
quite clear, what becomes of these

- when the same number is added to all logits: nothing;
- when the logits are divided by a temperature: a high one evens the values out, and a low one
  approaches all for the largest, but the order of the classes stays as it is.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastsoftmax

BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"  # told apart with any colour vision
SHIFT = 4.0
TEMPERATURES = np.geomspace(0.1, 100, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description="What softmax does to logits.")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the picture")
    output = parser.parse_args().output

    logits, cultivars = held_out_logits()
    values = fastsoftmax.softmax(logits, axis=-1)
    shifted = fastsoftmax.softmax(logits + SHIFT, axis=-1)
    decisions = fastsoftmax.predict(logits)
    changed = sum(
        np.count_nonzero(fastsoftmax.predict(logits / temperature) != decisions)
        for temperature in TEMPERATURES
    )

    print(f"held-out wines                       {len(cultivars)}")
    print(f"accuracy                             {np.mean(decisions == cultivars):.4f}")
    print(f"smallest softmax value               {values.min():.1e}")
    print(f"largest distance of a sum from 1     {abs(values.sum(axis=-1) - 1).max():.1e}")
    print(f"largest change by a shift of all     {abs(shifted - values).max():.1e}")
    print(f"decisions changed by a temperature   {changed}")

    unclear = abs(values.max(axis=-1) - 0.7).argmin()
    path = output / "what_softmax_does.png"
    draw(logits[unclear]).savefig(path, dpi=150)
    print(f"picture                              {path}")


def held_out_logits():
    """Decision values for half of the wines, of a model of the other half; and their classes."""
    features, cultivars = load_wine(return_X_y=True)
    train, test, train_cultivars, cultivars = train_test_split(
        features, cultivars, test_size=0.5, random_state=0, stratify=cultivars
    )
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(train, train_cultivars)
    return model.decision_function(test), cultivars


def draw(logits):
    """The logits of one wine, shifted or not; their softmax; and that at any temperature."""
    plt.rcParams["font.size"] = 15
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(15, 5.5), layout="constrained", width_ratios=(3, 3, 5)
    )
    classes = np.arange(3)
    for offset, shift, color, hatch in ((-0.2, 0, BLUE, None), (0.2, SHIFT, ORANGE, "//")):
        label = f"all logits + {shift:g}" if shift else "logits as they are"
        options = {"width": 0.38, "color": color, "hatch": hatch, "edgecolor": "black"}
        left.bar(classes + offset, logits + shift, label=label, **options)
        middle.bar(classes + offset, fastsoftmax.softmax(logits + shift), **options)
    left.axhline(0, color="black", linewidth=1)
    left.set(title="Logits", ylabel="decision value", ylim=(None, logits.max() + SHIFT + 2.6))
    left.legend(loc="upper right", fontsize=13)
    middle.set(title="Softmax: no shift matters", ylabel="softmax value", ylim=(0, 1))
    for panel in (left, middle):
        panel.set_xticks(classes)
        panel.set_xlabel("cultivar")

    values = fastsoftmax.softmax(
        np.tile(logits, (len(TEMPERATURES), 1)), axis=-1, temperature=TEMPERATURES[:, np.newaxis]
    )
    styles = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."))
    for label, (color, line) in enumerate(styles):
        right.semilogx(
            TEMPERATURES,
            values[:, label],
            color=color,
            linestyle=line,
            linewidth=3,
            label=f"cultivar {label}",
        )
    right.axhline(1 / 3, color="0.4", linestyle=":", label="one third each")
    right.axvline(1, color="0.4", linewidth=1)
    right.set(
        title="Temperature: the order stays",
        xlabel="temperature (the logits are divided by it)",
        ylabel="softmax value",
        ylim=(0, 1),
    )
    right.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    right.legend()
    return figure


if __name__ == "__main__":
    main()
