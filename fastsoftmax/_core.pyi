from typing import Any, final

import numpy as np
from numpy.typing import NDArray

def supported() -> tuple[str, ...]: ...

@final
class Kernels:
    def __init__(self, name: str) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def dtypes(self) -> tuple[str, ...]: ...
    def softmax(
        self,
        x: NDArray[Any],
        out: NDArray[Any],
        temperature: NDArray[np.float64] | None,
        where: NDArray[np.bool_] | None,
    ) -> None: ...
    def log_softmax(
        self,
        x: NDArray[Any],
        out: NDArray[Any],
        temperature: NDArray[np.float64] | None,
        where: NDArray[np.bool_] | None,
    ) -> None: ...
    def logsumexp(
        self, x: NDArray[Any], out: NDArray[Any], where: NDArray[np.bool_] | None
    ) -> None: ...
    def softmax_lane(self, x: object, axis: object, out: object) -> NDArray[Any] | None: ...
    def log_softmax_lane(self, x: object, axis: object, out: object) -> NDArray[Any] | None: ...
    def logsumexp_lane(self, x: object, axis: object) -> Any: ...
