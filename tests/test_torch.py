"""The semantics of PyTorch's losses and its gradients, compared where it is installed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
functional = pytest.importorskip("torch.nn.functional")

REDUCTIONS = ("mean", "sum", "none")
SHAPES = [((7, 5), 1), ((5,), 0), ((2, 5, 3), 1), ((2, 5, 3, 4), 1), ((0, 5), 1)]


def theirs(x, target, weight, smoothing, reduction, ignored=-100):
    logits = torch.tensor(x, requires_grad=True)
    loss = functional.cross_entropy(
        logits,
        torch.tensor(target),
        None if weight is None else torch.tensor(weight),
        ignore_index=ignored,
        label_smoothing=smoothing,
        reduction=reduction,
    )
    loss.sum().backward()
    return loss.detach().numpy(), logits.grad.numpy()


@pytest.mark.parametrize("kind", ["labels", "ignored labels", "probabilities"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_and_its_gradient(
    api, dtype, shape, axis, weighted, smoothing, reduction, kind
):
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 3.0, shape).astype(dtype)
    weight = np.array([0.5, 0.0, 1.0, 2.0, 3.0], dtype) if weighted else None
    if kind == "probabilities":
        target = np.moveaxis(rng.dirichlet(np.ones(5), np.delete(shape, axis)), -1, axis)
        target = target.reshape(shape).astype(dtype)
    else:
        target = rng.integers(5, size=np.delete(shape, axis))
        if kind == "ignored labels":
            target = np.where(rng.random(target.shape) < 0.4, -100, target)
    with np.errstate(all="ignore"):
        wanted, wanted_grad = theirs(x, target, weight, smoothing, reduction)
    loss, grad = api.cross_entropy(
        x,
        target,
        weight,
        axis=axis,
        label_smoothing=smoothing,
        reduction=reduction,
        return_grad=True,
    )
    tolerance = 100 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(loss, wanted, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(grad, wanted_grad, rtol=tolerance, atol=tolerance)
    assert loss.dtype == wanted.dtype
    if kind != "probabilities" and smoothing == 0:
        log_probs = functional.log_softmax(torch.tensor(x), axis).numpy()
        got = api.nll_loss(log_probs, target, weight, axis=axis, reduction=reduction)
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignored", [-100, 2])
def test_all_ignored_and_weights_of_zero(api, ignored, reduction):
    x = np.random.default_rng(1).normal(0.0, 3.0, (3, 4))
    for target, weight in (
        (np.full(3, ignored), None),
        (np.zeros(3, int), np.array([0.0, 1.0, 1.0, 1.0])),
    ):
        wanted, wanted_grad = theirs(x, target, weight, 0.0, reduction, ignored)
        loss, grad = api.cross_entropy(
            x, target, weight, ignore_index=ignored, reduction=reduction, return_grad=True
        )
        np.testing.assert_array_equal(loss, wanted)
        np.testing.assert_array_equal(grad, wanted_grad)


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_backward(api, function, axis, dtype):
    rng = np.random.default_rng(2)
    x, grad = rng.normal(0.0, 3.0, (2, 4, 5, 6)).astype(dtype)
    logits = torch.tensor(x, requires_grad=True)
    y = getattr(functional, function)(logits, axis)
    y.backward(torch.tensor(grad))
    got = getattr(api, f"{function}_backward")(grad, y.detach().numpy(), axis)
    tolerance = 100 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(got, logits.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_top_k(api, dtype):
    x = np.random.default_rng(3).normal(0.0, 5.0, (20, 300)).astype(dtype)
    values, indices = torch.softmax(torch.tensor(x), -1).topk(7, -1)
    got, got_indices = api.top_k(x, 7)
    np.testing.assert_array_equal(got_indices, indices.numpy())
    np.testing.assert_allclose(got, values.numpy(), rtol=100 * float(np.finfo(dtype).eps))
