"""The other libraries that can be compared with, as contestants.

Each function here imports one of them and returns its contestant, limited to a number of threads.
Tensors are made, and models compiled, before the call that is timed.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from fastsoftmax._timing import Contestant


def result_array(function: str, x: Any, axis: int) -> Any:
    """Where a contestant that can writes its result; None for a vector.

    A call on a vector is timed as a whole, with the allocation of its result. For larger arrays
    that would measure the allocator.
    """
    if x.ndim == 1:
        return None
    shape = list(x.shape)
    if function == "logsumexp":
        del shape[axis]
    return np.zeros(shape, x.dtype)  # not empty: all its pages are there from the start


def pytorch(threads: int) -> Contestant:
    import torch

    torch.set_num_threads(threads)

    def prepare(function: str, x: Any, axis: int) -> Callable[[], Any]:
        call = functools.partial(getattr(torch, function), torch.from_numpy(x), axis)
        out = result_array(function, x, axis)
        return call if out is None else functools.partial(call, out=torch.from_numpy(out))

    return prepare


def onnxruntime(threads: int) -> Contestant:
    import onnx  # noqa: F401  # which makes the model: without it, this peer is not there
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1

    def prepare(function: str, x: Any, axis: int) -> Callable[[], Any]:
        session = onnxruntime.InferenceSession(
            _onnx_model(function, x, axis), options, providers=["CPUExecutionProvider"]
        )
        out = result_array(function, x, axis)
        if out is None:
            return lambda: session.run(None, {"x": x})[0]
        binding = session.io_binding()
        binding.bind_input("x", "cpu", 0, x.dtype.type, x.shape, x.ctypes.data)
        binding.bind_output("y", "cpu", 0, out.dtype.type, out.shape, out.ctypes.data)

        def call(buffers: Any = (x, out)) -> Any:  # the binding holds their addresses alone
            session.run_with_iobinding(binding)
            return buffers[1]

        return call

    return prepare


def openvino(threads: int) -> Contestant:
    import onnx  # noqa: F401  # which makes the model
    import openvino

    core = openvino.Core()

    def prepare(function: str, x: Any, axis: int) -> Callable[[], Any]:
        model = core.read_model(_onnx_model(function, x, axis), b"")
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16, where the processor has it
            },
        )
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        out = result_array(function, x, axis)
        if out is None:
            return lambda: request.infer()[0]
        request.set_output_tensor(openvino.Tensor(out, shared_memory=True))

        def call(buffers: Any = (x, out)) -> Any:
            request.infer(share_outputs=True)
            return buffers[1]

        return call

    return prepare


def jax(threads: int) -> Contestant:
    # What it reads once, when it first computes.
    os.environ["NPROC"] = str(threads)
    os.environ["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} "
        f"intra_op_parallelism_threads={threads}"
    )
    import jax

    jax.config.update("jax_enable_x64", True)
    functions = {
        "softmax": jax.nn.softmax,
        "log_softmax": jax.nn.log_softmax,
        "logsumexp": jax.nn.logsumexp,
    }

    def prepare(function: str, x: Any, axis: int) -> Callable[[], Any]:
        compiled = jax.jit(functools.partial(functions[function], axis=axis))
        array = jax.numpy.asarray(x)
        return lambda: compiled(array).block_until_ready()

    return prepare


def numba(threads: int) -> Contestant:
    """The stable formulas as loops over each slice, for finite logits, on one thread."""
    import numba

    @numba.njit(fastmath=True)
    def largest_of(x, o, i):
        largest = x[o, 0, i]
        for j in range(1, x.shape[1]):
            largest = max(largest, x[o, j, i])
        return largest

    # Sums are float64: a rounded sum of a million terms would be far off. What is subtracted from
    # a logit is not left to fastmath, which would add the two subtrahends up beforehand.
    @numba.njit(fastmath=True)
    def log_sum(x, o, i, largest):
        total = 0.0
        for j in range(x.shape[1]):
            total += np.exp(x[o, j, i] - largest)
        return np.log(total)

    @numba.njit(fastmath=True)
    def softmax(x, out):
        for o in range(x.shape[0]):
            for i in range(x.shape[2]):
                largest = largest_of(x, o, i)
                total = 0.0
                for j in range(x.shape[1]):
                    out[o, j, i] = np.exp(x[o, j, i] - largest)
                    total += out[o, j, i]
                scale = x.dtype.type(1 / total)
                for j in range(x.shape[1]):
                    out[o, j, i] *= scale

    @numba.njit
    def log_softmax(x, out):
        for o in range(x.shape[0]):
            for i in range(x.shape[2]):
                largest = largest_of(x, o, i)
                subtracted = x.dtype.type(log_sum(x, o, i, largest))
                for j in range(x.shape[1]):
                    out[o, j, i] = x[o, j, i] - largest - subtracted

    @numba.njit
    def logsumexp(x, out):
        for o in range(x.shape[0]):
            for i in range(x.shape[2]):
                largest = largest_of(x, o, i)
                out[o, 0, i] = largest + log_sum(x, o, i, largest)

    kernels = {"softmax": softmax, "log_softmax": log_softmax, "logsumexp": logsumexp}

    def prepare(function: str, x: Any, axis: int) -> Callable[[], Any]:
        axis %= x.ndim
        outer = int(np.prod(x.shape[:axis]))
        inner = int(np.prod(x.shape[axis + 1 :]))
        kernel = kernels[function]
        blocks = x.reshape(outer, x.shape[axis], inner)
        shape = list(x.shape)
        length = x.shape[axis]
        if function == "logsumexp":
            del shape[axis]
            length = 1
        out = result_array(function, x, axis)

        def call(out: Any = out) -> Any:
            if out is None:
                out = np.empty(shape, x.dtype)
            kernel(blocks, out.reshape(outer, length, inner))
            return out

        return call

    return prepare


PEERS = {
    "pytorch": pytorch,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "jax": jax,
    "numba": numba,
}

LACKING = {"openvino": ("float64",), "numba": ("float16",)}
"""What a peer does not compute: OpenVINO takes float64 and works in float32."""


def installed(threads: int) -> dict[str, Contestant]:
    """The contestants of the libraries that are installed."""
    contestants = {}
    for name, contestant in PEERS.items():
        try:
            contestants[name] = contestant(threads)
        except ModuleNotFoundError:
            continue
    return contestants


def _onnx_model(function: str, x: Any, axis: int) -> bytes:
    """One ONNX operator, from `x` to `y`, for arrays of the shape of `x`."""
    from onnx import TensorProto, helper

    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    shape = list(x.shape)
    constants = []
    if function == "logsumexp":
        del shape[axis]
        node = helper.make_node("ReduceLogSumExp", ["x", "axes"], ["y"], keepdims=0)
        constants.append(helper.make_tensor("axes", TensorProto.INT64, [1], [axis]))
    else:
        operator = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}[function]
        node = helper.make_node(operator, ["x"], ["y"], axis=axis)
    graph = helper.make_graph(
        [node],
        function,
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        constants,
    )
    version = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=version, ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized
