"""A wrapped module of an encoder, with any number of adapters: what all of our tuner layers share."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

BASE = "__base__"  # peft's name for a row without adapter


class RowNames:
    """Which adapter each row of a batch goes through; made once a pass, read by every layer."""

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.places: dict[str, list[int]] = {}
        for place, name in enumerate(self.names):
            self.places.setdefault(name, []).append(place)
        self._rows: dict[tuple[tuple[str, ...], torch.device], Tensor] = {}

    def of(self, names: tuple[str, ...], device: torch.device) -> Tensor:
        """The rows of those adapters, one adapter after the other."""
        key = (names, device)
        if key not in self._rows:
            rows = [place for name in names for place in self.places[name]]
            self._rows[key] = torch.tensor(rows, device=device)
        return self._rows[key]


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

    def run_base(self, x: Tensor, *args: Tensor | None, domain_ids: Tensor | None) -> Tensor:
        """The output of the wrapped module."""
        return self.base_layer(x, *args, domain_ids=domain_ids)

    def forward(
        self,
        x: Tensor,
        *args: Tensor | None,
        domain_ids: Tensor | None = None,
        adapter_names: Sequence[str] | RowNames | None = None,
    ) -> Tensor:
        """Maps `(B, …, D_in)` to `(B, …, D_out)`; what else the wrapped module takes is handed on.

        Raises ValueError where `adapter_names` does not hold one name a row.
        """
        return self.run_adapters(x, self.run_base(x, *args, domain_ids=domain_ids), domain_ids, adapter_names)

    def run_adapters(
        self, x: Tensor, y: Tensor, domain_ids: Tensor | None, adapter_names: Sequence[str] | RowNames | None
    ) -> Tensor:
        """The output with all adapters that are meant, from the wrapped module's input `x` and output `y`."""
        if self.disable_adapters or self.merged_adapters:
            return y
        if adapter_names is None:
            for name in self.active_adapters:
                if self.holds(name):
                    y = self.adapt(name, x, y, domain_ids)
            return y
        rows = adapter_names if isinstance(adapter_names, RowNames) else RowNames(adapter_names)
        if len(rows.names) != len(x):
            raise ValueError(f"adapter_names holds {len(rows.names)} names, but the batch has {len(x)} rows.")
        held = tuple(name for name in rows.places if name != BASE and self.holds(name))
        if not held:
            return y
        if len(rows.places[held[0]]) == len(x):
            return self.adapt(held[0], x, y, domain_ids)
        adapted = []
        for name in held:
            own = rows.of((name,), y.device)
            own_domains = None if domain_ids is None else domain_ids[own]
            adapted.append(self.adapt(name, _pick(x, own), _pick(y, own), own_domains).to(y.dtype))
        return _put(y, rows.of(held, y.device), adapted)  # at once: each row is written once, however many adapters


def _pick(tensor: Tensor, rows: Tensor) -> Tensor:
    """Those rows of `(B, …, D)`; `(B, L, D)` keeps its time-major memory."""
    if tensor.dim() < 3:
        return tensor[rows]
    return tensor.transpose(0, 1).index_select(1, rows).transpose(0, 1)


def _put(tensor: Tensor, rows: Tensor, parts: list[Tensor]) -> Tensor:
    """`tensor` with the rows of `parts` in those places, in the memory order of `_pick`."""
    if tensor.dim() < 3:
        return tensor.index_copy(0, rows, torch.cat(parts))
    values = torch.cat([part.transpose(0, 1) for part in parts], dim=1)
    if len(rows) == len(tensor):  # every row is replaced
        return values.index_select(1, rows.argsort()).transpose(0, 1)
    return tensor.transpose(0, 1).index_copy(1, rows, values).transpose(0, 1)
