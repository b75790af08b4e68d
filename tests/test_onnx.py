"""What is asked of the ONNX operators Softmax and LogSoftmax, whose default axis is the last one.

The wanted values were computed with mpmath, with 40 digits.
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
