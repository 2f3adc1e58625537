"""A worker's KV cache as bytes. Needs torch."""

from collections.abc import Mapping, Sequence

import torch

from shunter_vllm.layout import UnknownLayout, kernel_blocks


class TensorCache:
    """`KvCache` over vLLM's tensors: one a layer, blocks in the first dimension.

    A tensor is of `[num_blocks * ratio, ...]` where a kernel's blocks are smaller than vLLM's
    (`group_kernel_blocks` of vllm/v1/kv_cache_interface.py): `ratio` rows are one block.
    """

    def __init__(self, kv_caches: Mapping[str, object], layers: int, num_blocks: int) -> None:
        """Raises `UnknownLayout`."""
        tensors: dict[int, torch.Tensor] = {}
        for name, tensor in kv_caches.items():
            if not isinstance(tensor, torch.Tensor):
                raise UnknownLayout(f"layer {name}: {type(tensor).__name__}, no tensor")
            tensors.setdefault(tensor.data_ptr(), tensor)  # layers may share one
        self._layers = [
            tensor.unflatten(0, (num_blocks, kernel_blocks(tensor.shape[0], num_blocks)))
            for tensor in tensors.values()
        ]
        forms = {(tensor.shape, tensor.dtype) for tensor in self._layers}
        if len(self._layers) != layers or len(forms) != 1:
            raise UnknownLayout(f"{len(self._layers)} tensors of {len(forms)} forms: {forms}")
        first = self._layers[0]
        self._layer_bytes = int(first[0].numel() * first.element_size())

    @property
    def block_bytes(self) -> int:
        return self._layer_bytes * len(self._layers)

    @property
    def block_form(self) -> str:
        """Of one layer's part of a block: it travels in this order, however it lies in memory."""
        first = self._layers[0]
        return f"{'x'.join(map(str, first.shape[1:]))} {first.dtype}"

    def read(self, block_ids: Sequence[int]) -> list[list[memoryview]]:
        """After the step's forward on the same stream: copies to the host wait for it."""
        index = self._index(block_ids)
        layers = [
            layer[index].reshape(len(block_ids), -1).view(torch.uint8).cpu().numpy()
            for layer in self._layers
        ]
        return [[memoryview(rows[i]) for rows in layers] for i in range(len(block_ids))]

    def write(self, block_ids: Sequence[int], payloads: Sequence[memoryview]) -> None:
        index = self._index(block_ids)
        raw = torch.frombuffer(bytearray().join(payloads), dtype=torch.uint8)
        parts = raw.view(len(block_ids), len(self._layers), self._layer_bytes)
        for place, layer in enumerate(self._layers):
            data = parts[:, place].contiguous().view(layer.dtype)
            layer[index] = data.view(len(block_ids), *layer.shape[1:]).to(layer.device)

    def _index(self, block_ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor(block_ids, dtype=torch.long, device=self._layers[0].device)
