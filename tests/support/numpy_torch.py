"""As much of torch as `shunter_vllm.tensors` asks for, over NumPy: torch is no dependency here."""

from collections.abc import Iterable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class Tensor:
    """Of an array, whose memory it shares, strides and all."""

    device = "cpu"

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.array.shape
        return shape

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def numel(self) -> int:
        return self.array.size

    def element_size(self) -> int:
        return self.array.itemsize

    def unflatten(self, dim: int, sizes: tuple[int, ...]) -> "Tensor":
        assert dim == 0
        strides = self.array.strides
        return Tensor(
            np.lib.stride_tricks.as_strided(
                self.array,
                (*sizes, *self.shape[1:]),
                (strides[0] * sizes[1], *strides),
            )
        )

    def reshape(self, *shape: int) -> "Tensor":
        return Tensor(self.array.reshape(shape))

    def view(self, *shape: Any) -> "Tensor":
        """To another shape, or to another type."""
        if isinstance(shape[0], int):
            return self.reshape(*shape)
        return Tensor(self.array.view(shape[0]))

    def contiguous(self) -> "Tensor":
        return Tensor(np.ascontiguousarray(self.array))

    def cpu(self) -> "Tensor":
        return self

    def to(self, device: str) -> "Tensor":
        assert device == self.device
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        return self.array

    def __getitem__(self, index: Any) -> "Tensor":
        return Tensor(self.array[index.array if isinstance(index, Tensor) else index])

    def __setitem__(self, index: "Tensor", data: "Tensor") -> None:
        self.array[index.array] = data.array


def tensor(values: Sequence[int], dtype: Any, device: str) -> Tensor:
    assert device == Tensor.device
    return Tensor(np.array(values, dtype))


def frombuffer(data: Iterable[int], dtype: Any) -> Tensor:
    return Tensor(np.frombuffer(data, dtype))  # type: ignore[call-overload]


def numpy_torch() -> ModuleType:
    made = ModuleType("torch")
    vars(made).update(
        Tensor=Tensor,
        tensor=tensor,
        frombuffer=frombuffer,
        uint8=np.dtype(np.uint8),
        int32=np.dtype(np.int32),
        long=np.dtype(np.int64),
        backends=SimpleNamespace(cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX512")),
    )
    return made
