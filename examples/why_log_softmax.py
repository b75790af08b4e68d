"""Why log-softmax: the loss that one trains with, by three formulas.

    python examples/why_log_softmax.py --output pictures

The loss of a classifier is minus the logarithm of the softmax value at the true class. It grows in
proportion to the error: a true class whose logit trails by 100 costs 100. To compute it as it is
written, softmax first and then the logarithm, fails at both ends. In float32,

- exp(x) overflows for logits above 88.7, and the quotient of two infinities is NaN;
- without that, a softmax value below 1e-45 is 0, and the loss infinite;
- a softmax value that rounds to 1 gives a loss of 0, though the true one is positive.

`cross_entropy` has none of these limits. The picture shows the three against the lead of the true
class, and what they cost.

On real data it matters: naive Bayes, trained on scikit-learn's handwritten digits, has logits that
lie hundreds apart.
"""

import argparse
import timeit
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import MultinomialNB

import fastsoftmax

BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"  # told apart with any colour vision
ROWS = 128
CLASSES = (10, 100, 1000, 10_000)


def fused(logits, labels):
    return fastsoftmax.cross_entropy(logits, labels, reduction="none")


def log_of_softmax(logits, labels):
    with np.errstate(divide="ignore"):
        log_values = np.log(fastsoftmax.softmax(logits, axis=-1))
    return -log_values[np.arange(len(labels)), labels]


def naive(logits, labels):
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        terms = np.exp(logits)
        values = terms / terms.sum(axis=-1, keepdims=True)
        return -np.log(values[np.arange(len(labels)), labels])


FORMULAS = {
    "cross_entropy(x)": (fused, BLUE, "-", "o"),
    "-log(softmax(x))": (log_of_softmax, ORANGE, "--", "s"),
    "-log(exp(x) / sum)": (naive, GREEN, ":", "^"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="The cross-entropy by three formulas.")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the picture")
    output = parser.parse_args().output

    images, digits = load_digits(return_X_y=True)
    train, test, train_digits, digits = train_test_split(
        images, digits, test_size=0.5, random_state=0, stratify=digits
    )
    model = MultinomialNB().fit(train, train_digits)
    logits = model.predict_joint_log_proba(test).astype(np.float32)
    wrong = fastsoftmax.predict(logits) != digits
    print(f"{'held-out digits':<40}{len(digits)}")
    print(f"{'read wrongly':<40}{np.count_nonzero(wrong)}")
    for name, (loss, *_) in FORMULAS.items():
        losses = loss(logits, digits)
        print(f"{name + ': mean':<40}{losses.mean():.4g}")
        print(f"{name + ': losses not finite':<40}{np.count_nonzero(~np.isfinite(losses))}")
        print(f"{name + ': losses of 0':<40}{np.count_nonzero(losses == 0)}")
    print(f"{'largest loss':<40}{fused(logits, digits).max():.4f}")

    path = output / "why_log_softmax.png"
    draw(timings()).savefig(path, dpi=150)
    print(f"{'picture':<40}{path}")


def timings():
    """The least time of a call, in microseconds, for each formula and number of classes."""
    rng = np.random.default_rng(0)
    found = {name: [] for name in FORMULAS}
    for classes in CLASSES:
        logits = rng.normal(0.0, 3.0, (ROWS, classes)).astype(np.float32)
        labels = rng.integers(classes, size=ROWS)
        for name, (loss, *_) in FORMULAS.items():
            timer = timeit.Timer(lambda loss=loss, x=logits, y=labels: loss(x, y))
            number = 1 + 200_000 // logits.size
            found[name].append(min(timer.repeat(5, number)) / number * 1e6)
    return found


def draw(microseconds):
    """The loss where the true class trails, where it leads, and the time of a call."""
    plt.rcParams["font.size"] = 15
    figure, (trails, leads, costs) = plt.subplots(1, 3, figsize=(16, 6), layout="constrained")
    for panel, margin in ((trails, np.arange(0, 160.5, 0.5)), (leads, np.arange(0, 30.25, 0.25))):
        x = np.zeros((len(margin), 2), np.float32)
        label = 0 if panel is trails else 1
        x[:, 1] = margin
        for name, (loss, color, line, _) in FORMULAS.items():
            losses = loss(x, np.full(len(margin), label))
            is_shown = np.isfinite(losses) & ((losses > 0) | (panel is trails))
            end = is_shown.argmin() if not is_shown.all() else len(margin)
            panel.plot(
                margin[:end], losses[:end], color=color, linestyle=line, linewidth=4, label=name
            )
            if end < len(margin):
                panel.plot(
                    margin[end - 1], losses[end - 1], "X", color=color, markersize=18, mec="black"
                )
    trails.annotate("overflow:\nNaN", (88, 88), (100, 45), arrowprops={"arrowstyle": "->"})
    trails.annotate("underflow:\ninfinite", (103, 103), (40, 125), arrowprops={"arrowstyle": "->"})
    trails.set(
        title="The loss of an error",
        xlabel="logits by which the true class trails",
        ylabel="loss",
    )
    leads.set(
        title="The loss of being right",
        xlabel="logits by which the true class leads",
        ylabel="loss",
        yscale="log",
    )
    leads.annotate("rounded\nto 0", (16.5, 1.2e-7), (18, 1e-4), arrowprops={"arrowstyle": "->"})
    leads.legend(loc="lower left")
    for name, (_, color, line, marker) in FORMULAS.items():
        costs.loglog(
            CLASSES,
            microseconds[name],
            color=color,
            linestyle=line,
            marker=marker,
            linewidth=3,
            markersize=10,
            label=name,
        )
    costs.set(
        title=f"The cost for {ROWS} rows",
        xlabel="number of classes",
        ylabel="time of a call [µs]",
    )
    for panel in (trails, leads, costs):
        panel.grid(alpha=0.4)
    return figure


if __name__ == "__main__":
    main()
