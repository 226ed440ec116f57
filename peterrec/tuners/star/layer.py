"""A linear map with weights a domain."""

from torch import Tensor, nn

from peterrec.tuners.star.config import StarConfig
from peterrec.tuners.star.deviation import FORMS, Deviation
from peterrec.tuners.star.domain_layer import DomainLayer
from peterrec.tuners.star.domains import row_vectors


class StarLayer(DomainLayer):
    """Wraps a linear map: for the rows of domain k, weight `W ⊙ (1 + Δ_k)` and bias `b + Δb_k`."""

    def __init__(self, base_layer: nn.Linear, adapter_name: str, config: StarConfig):
        super().__init__(base_layer, adapter_name)
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: StarConfig) -> None:  # type: ignore[override]
        """Adds, or starts afresh, the deviations of an adapter."""
        deviation = FORMS[config.form](self._linear(), num_domains=config.num_domains, rank=config.rank)
        self.peterrec_star_deviation[adapter_name] = deviation
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def adapt(self, adapter_name: str, x: Tensor, y: Tensor, domain_ids: Tensor | None) -> Tensor:
        own = self._own(adapter_name)
        index = self.index(adapter_name, x, domain_ids)
        added = own.multiplied(x, self.frozen_output(x, y), self._linear(), index)
        if own.bias is not None:
            added = added + row_vectors(own.bias, index, dims=y.dim())
        return (y + added).to(y.dtype)

    def changes(self, adapter_name: str, domain: int) -> dict[str, Tensor]:
        own = self._own(adapter_name)
        changes = {"weight": self._linear().weight * own.factors()[domain]}
        if own.bias is not None:
            changes["bias"] = own.bias[domain]
        return changes

    def _own(self, adapter_name: str) -> Deviation:
        own = self.peterrec_star_deviation[adapter_name]
        assert isinstance(own, Deviation)
        return own

    def _linear(self) -> nn.Linear:
        assert isinstance(self.base_layer, nn.Linear)
        return self.base_layer
