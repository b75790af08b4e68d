"""Training with it: multinomial logistic regression in a few lines of NumPy.

    python examples/training.py --output pictures

`cross_entropy` returns the loss and its gradient with respect to the logits in one call. What a
linear model needs besides is two matrix products and an optimiser; here that is SciPy's L-BFGS, and
the data are scikit-learn's handwritten digits. The objective is that of scikit-learn's
LogisticRegression, the sum of the losses plus half the squares of the coefficients, and so are the
coefficients and the log-loss that come out.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import fastsoftmax

BLUE = "#0072b2"
CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Logistic regression with cross_entropy.")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the picture")
    output = parser.parse_args().output

    images, digits = load_digits(return_X_y=True)
    train, test, train_digits, digits = train_test_split(
        images / 16, digits, test_size=0.5, random_state=0, stratify=digits
    )
    coefficients, intercepts, history = fit(train, train_digits)
    peer = LogisticRegression(tol=1e-8, max_iter=10_000).fit(train, train_digits)

    print(f"iterations                               {len(history)}")
    print(f"largest coefficient                      {abs(coefficients).max():.4f}")
    difference = abs(coefficients - peer.coef_).max()
    print(f"largest difference from scikit-learn's   {difference:.1e}")
    for name, logits in (
        ("ours", test @ coefficients.T + intercepts),
        ("scikit-learn's", peer.decision_function(test)),
    ):
        loss, decisions = fastsoftmax.cross_entropy(logits, digits), fastsoftmax.predict(logits)
        print(f"held-out log-loss, {name:<15}       {loss:.6f}")
        print(f"held-out accuracy, {name:<15}       {np.mean(decisions == digits):.4f}")

    of_peer = objective(np.column_stack([peer.coef_, peer.intercept_]), train, train_digits)[0]
    path = output / "training.png"
    draw(history - min(history[-1], of_peer), coefficients).savefig(path, dpi=150)
    print(f"picture                                  {path}")


def objective(parameters, images, digits):
    """The loss of a model, and its gradient; the intercept is the last coefficient of a class."""
    parameters = parameters.reshape(CLASSES, -1)
    coefficients, intercepts = parameters[:, :-1], parameters[:, -1]
    loss, grad = fastsoftmax.cross_entropy(
        images @ coefficients.T + intercepts, digits, reduction="sum", return_grad=True
    )
    of_parameters = np.column_stack([grad.T @ images + coefficients, grad.sum(axis=0)])
    return loss + (coefficients**2).sum() / 2, of_parameters.ravel()


def fit(images, digits):
    """Coefficients, intercepts, and the objective after each iteration."""
    history = []
    found = minimize(
        objective,
        np.zeros(CLASSES * (images.shape[1] + 1)),
        (images, digits),
        method="L-BFGS-B",
        jac=True,
        callback=lambda intermediate_result: history.append(intermediate_result.fun),
        options={"maxiter": 10_000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-7},
    )
    parameters = found.x.reshape(CLASSES, -1)
    return parameters[:, :-1], parameters[:, -1], np.array(history)


def draw(excess, coefficients):
    """The objective over the iterations, and what each pixel says for and against each digit."""
    plt.rcParams["font.size"] = 15
    figure = plt.figure(figsize=(15, 6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(4, 6))
    panel = left.subplots()
    panel.semilogy(np.arange(1, len(excess)), excess[:-1], color=BLUE, linewidth=3)
    panel.set(title="L-BFGS", xlabel="iteration", ylabel="objective above its minimum")
    panel.grid(alpha=0.4)

    pictures = right.subplots(2, 5)
    limit = abs(coefficients).max()
    for digit, picture in enumerate(pictures.flat):
        shown = picture.imshow(
            coefficients[digit].reshape(8, 8), cmap="PuOr_r", vmin=-limit, vmax=limit
        )
        picture.set_title(f"{digit}")
        picture.set(xticks=[], yticks=[])
    right.suptitle("What ink in a pixel says for (+) or against (-) each digit")
    right.colorbar(
        shown, ax=pictures, location="bottom", label="coefficient [logit for full ink]", aspect=40
    )
    return figure


if __name__ == "__main__":
    main()
