"""A wrapped module of an encoder, with any number of adapters: what all of our tuner layers share."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

BASE = "__base__"  # peft's name for a row without adapter


class TunerLayer(nn.Module, BaseTunerLayer):
    """Runs the wrapped module, then each active adapter on what came out of it.

    With `adapter_names`, one name a row, each row goes through its own adapter instead (`__base__`: through none).
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str):
        super().__init__()
        self.base_layer = base_layer
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.merged_adapters: list[str] = []

    @abstractmethod
    def update_layer(self, adapter_name: str, config: PeftConfig) -> None:
        """Adds, or starts afresh, the weights of an adapter."""

    @abstractmethod
    def holds(self, adapter_name: str) -> bool:
        """Whether this layer has weights of that adapter."""

    @abstractmethod
    def adapt(self, adapter_name: str, x: Tensor, y: Tensor, domain_ids: Tensor | None) -> Tensor:
        """The output with the adapter, from the module's input `x` and its output `y`, both `(B, …, D)`."""

    def forward(
        self,
        x: Tensor,
        *args: Tensor | None,
        domain_ids: Tensor | None = None,
        adapter_names: Sequence[str] | None = None,
    ) -> Tensor:
        """Maps `(B, …, D_in)` to `(B, …, D_out)`; what else the wrapped module takes is handed on."""
        y = self.base_layer(x, *args, domain_ids=domain_ids)
        if self.disable_adapters or self.merged_adapters:
            return y
        if adapter_names is None:
            for name in self.active_adapters:
                if self.holds(name):
                    y = self.adapt(name, x, y, domain_ids)
            return y
        for name in dict.fromkeys(adapter_names):
            if name == BASE or not self.holds(name):
                continue
            rows = torch.tensor([row for row, own in enumerate(adapter_names) if own == name], device=y.device)
            own_domains = None if domain_ids is None else domain_ids[rows]
            y = y.index_copy(0, rows, self.adapt(name, x[rows], y[rows], own_domains).to(y.dtype))
        return y
