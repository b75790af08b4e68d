"""From logits to decisions, on scikit-learn's handwritten digits.

    python examples/digits.py --output digits.png

A logistic regression learns to read pictures of 8 x 8 pixels. Its decision values are the logits:
their argmax is the digit that it reads, their softmax is what it calls probabilities, and their
log-softmax at the true digit is the loss that its training minimised.

Softmax values are positive and sum to 1. That alone does not make them probabilities: how often the
model is right where its largest value is 0.7 depends on the model and the data, and has to be
measured. The picture shows four digits with their softmax, and that measurement.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import fastsoftmax

BLUE, ORANGE = "#0072b2", "#e69f00"  # told apart with any colour vision


def main() -> None:
    parser = argparse.ArgumentParser(description="Softmax of a digit classifier's logits.")
    parser.add_argument("--output", default="digits.png", help="the picture (default: %(default)s)")
    output = parser.parse_args().output

    images, digits = load_digits(return_X_y=True)
    train_images, images, train_digits, digits = train_test_split(
        images / 16, digits, test_size=0.5, random_state=0, stratify=digits
    )
    model = LogisticRegression(max_iter=1000).fit(train_images, train_digits)

    logits = model.decision_function(images)
    values = fastsoftmax.softmax(logits, axis=1)
    log_values = fastsoftmax.log_softmax(logits, axis=1)
    predicted = logits.argmax(axis=1)  # softmax keeps the order of the logits

    np.testing.assert_allclose(values, model.predict_proba(images), rtol=1e-13)
    np.testing.assert_allclose(log_values, model.predict_log_proba(images), rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(predicted, model.predict(images))

    right = predicted == digits
    log_loss = -log_values[np.arange(len(digits)), digits].mean()
    print(f"held-out digits              {len(digits)}")
    print(f"accuracy                     {right.mean():.4f}")
    print(f"mean log-loss                {log_loss:.4f}")
    print(f"mean of the largest softmax  {values.max(axis=1).mean():.4f}")
    print("Were these values calibrated probabilities, their mean would be close to the accuracy.")

    draw(images, digits, values, right).savefig(output, dpi=150)
    print(f"picture                      {output}")


def draw(images, digits, values, right):
    """Four digits above their softmax values, and how often the model is right beside them."""
    largest = values.max(axis=1)
    examples = {
        "surest, right": np.argmax(np.where(right, largest, 0)),
        "least sure, right": np.argmin(np.where(right, largest, 1)),
        "least sure, wrong": np.argmin(np.where(right, 1, largest)),
        "surest, wrong": np.argmax(np.where(right, 0, largest)),
    }
    plt.rcParams["font.size"] = 14
    figure = plt.figure(figsize=(15, 6), layout="constrained")
    left, rightmost = figure.subfigures(1, 2, width_ratios=(5, 3))

    pictures, bars = left.subplots(2, len(examples), height_ratios=(2, 3), sharey="row")
    for (title, index), picture, bar in zip(examples.items(), pictures, bars, strict=True):
        picture.imshow(images[index].reshape(8, 8), cmap="gray_r")
        picture.set_title(f"{title}\nread as {values[index].argmax()}, is {digits[index]}")
        picture.axis("off")
        colors = [ORANGE if digit == digits[index] else BLUE for digit in range(10)]
        bar.barh(range(10), values[index], color=colors)
        bar.set_xlim(0, 1.05)
        bar.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        bar.set_yticks(range(10))
    left.supxlabel("softmax value (orange: the true digit)", fontsize=14)
    bars[0].set_ylabel("digit")

    panel = rightmost.subplots()
    edges = np.array([0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    bins = np.digitize(largest, edges[1:-1])
    counts = np.bincount(bins)
    panel.plot([0, 1], [0, 1], color="gray", linestyle="--", label="calibrated")
    panel.plot(
        np.bincount(bins, largest) / counts,
        np.bincount(bins, right) / counts,
        color=BLUE,
        marker="o",
        markersize=9,
        label="this model",
    )
    panel.set(
        xlabel="largest softmax value (mean of a bin)",
        ylabel="fraction of digits read rightly",
        title="Right as often as the value says?",
        xlim=(0.2, 1.02),
        ylim=(0.2, 1.02),
    )
    panel.legend()
    return figure


if __name__ == "__main__":
    main()
