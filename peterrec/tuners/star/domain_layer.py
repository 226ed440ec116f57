"""A wrapped module with weights a domain: what linear maps and norms share, above all merging."""

import inspect
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peterrec.tuners.layer import RowNames, TunerLayer
from peterrec.tuners.star.domains import domain_index


class DomainLayer(TunerLayer):
    """Adds to a module's output by how much the output of each row's domain differs.

    Of several active adapters, each adds its own difference from the frozen module.
    """

    adapter_layer_names = ("peterrec_star_deviation",)

    def __init__(self, base_layer: nn.Module, adapter_name: str):
        super().__init__(base_layer, adapter_name)
        self.peterrec_star_deviation = nn.ModuleDict()
        self._takes_domains = "domain_ids" in inspect.signature(base_layer.forward).parameters
        self._shared: dict[str, Tensor] = {}  # the frozen weights while adapters are merged

    @abstractmethod
    def changes(self, adapter_name: str, domain: int) -> dict[str, Tensor]:
        """What a domain adds to each weight of the module."""

    def holds(self, adapter_name: str) -> bool:
        return adapter_name in self.peterrec_star_deviation

    def num_domains(self, adapter_name: str) -> int:
        """How many domains that adapter has."""
        return int(self.peterrec_star_deviation[adapter_name].num_domains)  # type: ignore[arg-type]

    def index(self, adapter_name: str, x: Tensor, domain_ids: Tensor | None) -> Tensor | None:
        """The domain of each row of `x`, as `domain_index` gives it; raises its ValueErrors."""
        return domain_index(domain_ids, rows=len(x), num_domains=self.num_domains(adapter_name))

    def run_base(self, x: Tensor, *args: Tensor | None, domain_ids: Tensor | None) -> Tensor:
        if self._takes_domains:
            return super().run_base(x, *args, domain_ids=domain_ids)
        return self.base_layer(x, *args)

    def frozen_output(self, x: Tensor, y: Tensor) -> Tensor:
        """The module's own output, given `y`, to which another active adapter may have added."""
        return y if len(self.active_adapters) == 1 else self.run_base(x, domain_ids=None)

    def forward(
        self,
        x: Tensor,
        *args: Tensor | None,
        domain_ids: Tensor | None = None,
        adapter_names: Sequence[str] | RowNames | None = None,
    ) -> Tensor:
        """Maps `(B, …, D_in)` to `(B, …, D_out)`, each row by the weights of its domain, or of its adapter's.

        Raises ValueError with `adapter_names` while an adapter is merged, or where `domain_ids` is wrong.
        """
        if self.merged_adapters and self.disable_adapters:
            self.unmerge()
        if self.merged_adapters and adapter_names is not None:
            raise ValueError("adapter_names cannot be told apart while adapters are merged: call unmerge_adapter().")
        return super().forward(x, *args, domain_ids=domain_ids, adapter_names=adapter_names)

    def folded(self, adapter_names: Sequence[str], *, domain: int, check: bool) -> dict[str, Tensor]:
        """The module's weights with those adapters folded in, beside any merged already.

        Raises ValueError where the module has no such weight, or, with `check`, where a result is not finite.
        """
        weights: dict[str, Tensor] = {}
        for adapter_name in adapter_names:
            for name, change in self.changes(adapter_name, domain).items():
                own: Tensor | None = getattr(self.base_layer, name)
                if own is None:
                    raise ValueError(
                        f"{type(self.base_layer).__name__} has no {name} to merge adapter {adapter_name!r} into. "
                        "Keep the adapter, or call unload()."
                    )
                merged = weights.get(name, own) + change
                weights[name] = merged
                if check and not torch.isfinite(merged).all():
                    raise ValueError(f"Merging adapter {adapter_name!r} gives weights that are not finite.")
        return weights

    @torch.no_grad()
    def fold(self, adapter_names: Sequence[str], *, domain: int, check: bool = False) -> None:
        """Puts a domain's weights in place of the frozen ones; `unmerge` takes them back exactly."""
        weights = self.folded(adapter_names, domain=domain, check=check)
        for name, weight in weights.items():
            own = getattr(self.base_layer, name)
            self._shared.setdefault(name, own.detach().clone())
            own.copy_(weight)
        self.merged_adapters.extend(adapter_names)

    def mergeable(self, adapter_names: Sequence[str] | None) -> list[str]:
        """Which of the adapters, by default of the active ones, are here and not merged yet.

        Raises ValueError for one with several domains.
        """
        asked = self.active_adapters if adapter_names is None else adapter_names
        names = [name for name in asked if self.holds(name) and name not in self.merged_adapters]
        for name in names:
            if self.num_domains(name) > 1:
                raise ValueError(
                    f"Adapter {name!r} has {self.num_domains(name)} domains, and one encoder cannot take the weights "
                    "of all. Call export_domain(k) of the StarModel for an encoder with those of domain k."
                )
        return names

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Folds adapters of one domain into the module's weights; with `safe_merge`, results must be finite.

        Several adapters add up, as they do unmerged.
        """
        names = self.mergeable(adapter_names)
        if self.merged_adapters and names:
            merged = [*self.merged_adapters, *names]
            self.unmerge()  # each adapter multiplies the frozen weight, not what others made of it
            names = merged
        self.fold(names, domain=0, check=safe_merge)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Puts the frozen weights back, bit for bit."""
        for name, weight in self._shared.items():
            getattr(self.base_layer, name).copy_(weight)
        self._shared.clear()
        self.merged_adapters.clear()


def domains_told_apart(module: nn.Module) -> int:
    """How many domains the star layers inside `module` tell apart; 1 where `domain_ids` would change nothing.

    Layers of a single domain want no `domain_ids` either: they would take every row of another for an unknown one.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, DomainLayer)]
    return max((layer.num_domains(name) for layer in layers for name in layer.peterrec_star_deviation), default=1)
