"""Arrays of ours as inputs and outputs of a run, where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxruntime import IOBinding


def bind_input(binding: IOBinding, name: str, value: NDArray[np.generic]) -> None:
    binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)


def bind_output(binding: IOBinding, name: str, value: NDArray[np.generic]) -> None:
    binding.bind_output(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
