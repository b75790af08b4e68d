"""What is asked of the ONNX operators Softmax and LogSoftmax, whose default axis is the last one.

The wanted values were computed with mpmath, with 40 digits. Those of the losses come from the
reference evaluator of the package onnx, where it is installed.
"""

import numpy as np
import pytest

import oracle
from oracle import assert_accurate

EXAMPLE = [-1.0, 0.0, 1.0]
EXAMPLE_SOFTMAX = [0.090030573170380458, 0.24472847105479765, 0.66524095577482189]
EXAMPLE_LOG_SOFTMAX = [-2.4076059644443803, -1.4076059644443803, -0.4076059644443803]

RAMPS = [[0.0, 1.0, 2.0, 3.0], [10000.0, 10001.0, 10002.0, 10003.0]]
RAMP_SOFTMAX = [
    0.032058603280084988,
    0.087144318742032567,
    0.23688281808991013,
    0.64391425988797231,
]
RAMP_LOG_SOFTMAX = [
    -3.4401896985611953,
    -2.4401896985611953,
    -1.4401896985611953,
    -0.44018969856119533,
]

DTYPES = ("float16", "float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_example(api, dtype):
    x = np.array([EXAMPLE], dtype)
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(api.softmax(x, -1), [EXAMPLE_SOFTMAX], tolerance)
    np.testing.assert_allclose(api.log_softmax(x, -1), [EXAMPLE_LOG_SOFTMAX], tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_numbers_are_stable(api, dtype):
    x = np.array(RAMPS, dtype)
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(api.softmax(x, -1), [RAMP_SOFTMAX] * 2, tolerance)
    np.testing.assert_allclose(api.log_softmax(x, -1), [RAMP_LOG_SOFTMAX] * 2, tolerance)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_axis_of_three(api, dtype, axis):
    x = np.abs(np.random.default_rng(0).standard_normal((3, 4, 5))).astype(dtype)
    exact = oracle.exact(np.moveaxis(x, axis, -1))
    for function in ("softmax", "log_softmax"):
        got = np.moveaxis(getattr(api, function)(x, axis), axis, -1)
        assert_accurate(got, getattr(exact, function))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_flattened_to_two_dimensions(api, dtype):
    """Up to version 11 of the operators, all axes from the given one on were one."""
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5)).astype(dtype)
    exact = oracle.exact(x.reshape(6, 20))
    assert_accurate(api.softmax(x, (2, 3)).reshape(6, 20), exact.softmax)
    assert_accurate(api.log_softmax(x, (-1, -2)).reshape(6, 20), exact.log_softmax)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ignored", [None, 0, -5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 2), (3, 5, 2, 4)], ids=str)
@pytest.mark.parametrize("operator", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
def test_losses(api, operator, shape, weighted, ignored, reduction):
    """Their classes are along the second axis."""
    onnx = pytest.importorskip("onnx")
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
    rng = np.random.default_rng(2)
    x = rng.normal(0.0, 3.0, shape).astype(np.float32)
    if operator == "NegativeLogLikelihoodLoss":
        x = -np.abs(x)
    labels = rng.integers(5, size=(shape[0], *shape[2:]))
    inputs, options = {"x": x, "target": labels}, {"reduction": reduction}
    if ignored is not None:
        labels[rng.random(labels.shape) < 0.3] = ignored
        options["ignore_index"] = ignored
    if weighted:
        inputs["weight"] = np.array([0.5, 1, 2, 3, 0.1], np.float32)
    node = onnx.helper.make_node(operator, list(inputs), ["loss"], **options)
    types = {"x": onnx.TensorProto.FLOAT, "target": onnx.TensorProto.INT64}
    graph = onnx.helper.make_graph(
        [node],
        "loss",
        [
            onnx.helper.make_tensor_value_info(name, types.get(name, types["x"]), a.shape)
            for name, a in inputs.items()
        ],
        [onnx.helper.make_tensor_value_info("loss", types["x"], None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    (wanted,) = evaluator(model).run(None, inputs)
    is_loss = operator == "SoftmaxCrossEntropyLoss"
    function = api.cross_entropy if is_loss else api.nll_loss
    got = function(*inputs.values(), axis=1, **options)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
