"""It is not a probability: softmax values beside how often the classifier is right.

    python examples/not_a_probability.py --output pictures

A logistic regression learns handwritten digits from 300 pictures; scikit-learn brings the data. It
is hardly regularised, and ends up being sure of nearly everything it sees. Its softmax values are
positive and sum to 1, but where it says 0.99 it is not right in 99 of 100 cases.

How often it is right can only be measured, on pictures that it was not trained on. 500 such
pictures give the temperature by which to divide its logits, and the remaining ones are the test.
The values come close to the measured frequencies; no decision changes, as the order of the logits
is what it was. Still, they are good for pictures like these, and no others.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import fastsoftmax
from fastsoftmax.calibration import ReliabilityDisplay, calibration_error, fit_temperature

BLUE, ORANGE = "#0072b2", "#e69f00"  # told apart with any colour vision
TRAINING, CALIBRATION = 300, 500


def main() -> None:
    parser = argparse.ArgumentParser(description="Softmax values and how often they come true.")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the picture")
    output = parser.parse_args().output

    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    images, digits = images[order], digits[order]
    model = LogisticRegression(C=1e4, max_iter=10_000).fit(images[:TRAINING], digits[:TRAINING])
    logits = model.decision_function(images)

    held_out = slice(TRAINING, TRAINING + CALIBRATION)
    temperature = fit_temperature(logits[held_out], digits[held_out])
    logits, digits = logits[TRAINING + CALIBRATION :], digits[TRAINING + CALIBRATION :]
    decisions, before = fastsoftmax.predict(logits, return_confidence=True)
    decisions_after, after = fastsoftmax.predict(logits / temperature, return_confidence=True)
    errors = [calibration_error(each, digits) for each in (logits, logits / temperature)]
    losses = [fastsoftmax.cross_entropy(each, digits) for each in (logits, logits / temperature)]

    print(f"test pictures                       {len(digits)}")
    print(f"accuracy                            {np.mean(decisions == digits):.4f}")
    print(f"mean of the largest softmax value   {before.mean():.4f}")
    print(f"temperature                         {temperature:.4f}")
    print(f"the mean at that temperature        {after.mean():.4f}")
    print(f"calibration error before            {errors[0]:.4f}")
    print(f"calibration error after             {errors[1]:.4f}")
    print(f"mean log-loss before                {losses[0]:.4f}")
    print(f"mean log-loss after                 {losses[1]:.4f}")
    print(f"decisions changed                   {np.count_nonzero(decisions != decisions_after)}")

    path = output / "not_a_probability.png"
    figure = draw(logits, temperature, digits, before, after, np.mean(decisions == digits))
    figure.savefig(path, dpi=150)
    print(f"picture                             {path}")


def draw(logits, temperature, digits, before, after, accuracy):
    """Reliability diagrams, each point a tenth of the pictures, and how often each value occurs."""
    plt.rcParams["font.size"] = 15
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 6.5), layout="constrained")
    names = ("softmax as it is", f"at temperature {temperature:.1f}")
    for each, name, color, marker in (
        (logits, names[0], ORANGE, "s"),
        (logits / temperature, names[1], BLUE, "o"),
    ):
        ReliabilityDisplay.from_logits(
            each,
            digits,
            n_bins=10,
            strategy="quantile",
            name=f"{name}, calibration error {calibration_error(each, digits):.3f}",
            ax=left,
            color=color,
            marker=marker,
            markersize=10,
            linewidth=3,
        )
    left.set(
        title="Right as often as the value says?",
        xlabel="mean of the largest softmax value\n(each point: a tenth of the pictures)",
        xlim=(0.45, 1.02),
        ylim=(0.45, 1.02),
    )
    left.legend(loc="upper left", fontsize=13)

    bins = np.linspace(0, 1, 21)
    right.hist(after, bins, color=BLUE, alpha=0.6, edgecolor="black", label=names[1])
    right.hist(before, bins, histtype="step", color=ORANGE, linewidth=4, label=names[0])
    right.axvline(accuracy, color="black", linestyle="--", linewidth=2, label="accuracy")
    right.set(
        title="How sure it is",
        xlabel="largest softmax value of a picture",
        ylabel="number of pictures",
        yscale="log",
        xlim=(0.2, 1.02),
    )
    right.legend(loc="upper left", fontsize=13)
    return figure


if __name__ == "__main__":
    main()
