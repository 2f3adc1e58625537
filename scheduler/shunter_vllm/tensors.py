"""A worker's KV cache as bytes. Needs torch."""

from collections.abc import Mapping

import torch

from shunter_vllm.folder import BlockDamaged


class UnknownLayout(Exception):
    """The KV cache's tensors are not one block after the other in each layer."""


class TensorCache:
    """`KvCache` over vLLM's tensors: one a layer, blocks in the first dimension."""

    def __init__(self, kv_caches: Mapping[str, object], layers: int) -> None:
        """Raises `UnknownLayout`."""
        tensors: dict[int, torch.Tensor] = {}
        for name, tensor in kv_caches.items():
            if not isinstance(tensor, torch.Tensor):
                raise UnknownLayout(f"layer {name}: {type(tensor).__name__}, no tensor")
            tensors.setdefault(tensor.data_ptr(), tensor)  # layers may share one
        self._layers = list(tensors.values())
        forms = {(tensor.shape, tensor.dtype) for tensor in self._layers}
        if len(self._layers) != layers or len(forms) != 1:
            raise UnknownLayout(f"{len(self._layers)} tensors of {len(forms)} forms: {forms}")
        first = self._layers[0]
        self._layer_bytes = first[0].numel() * first.element_size()

    def read(self, block_id: int) -> list[memoryview]:
        """After the step's forward on the same stream: a copy to the host waits for it."""
        parts = [layer[block_id].contiguous().view(torch.uint8) for layer in self._layers]
        return [memoryview(part.cpu().numpy().reshape(-1)) for part in parts]

    def write(self, block_id: int, payload: memoryview) -> None:
        if len(payload) != self._layer_bytes * len(self._layers):
            raise BlockDamaged(f"{len(payload)} bytes where {self._layer_bytes} a layer belong")
        raw = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        for layer, data in zip(self._layers, raw.split(self._layer_bytes), strict=True):
            block = layer[block_id]
            block.copy_(data.view(layer.dtype).view(block.shape))
