"""Partitioned normalisation on layer norms: gain and bias a domain (STAR, CIKM 2021, section 4.2)."""

import torch
from torch import Tensor, nn

from peterrec.tuners.star.config import StarConfig
from peterrec.tuners.star.domain_layer import DomainLayer
from peterrec.tuners.star.domains import row_vectors


class NormDeviation(nn.Module):
    """Deviations `(K, D)` of K domains from a norm: `weight` δγ of `γ · (1 + δγ_k)`, `bias` δβ of `β + δβ_k`."""

    def __init__(self, channels: int, *, num_domains: int, device: torch.device | None, dtype: torch.dtype):
        super().__init__()
        self.num_domains = num_domains
        self.weight = nn.Parameter(torch.zeros(num_domains, channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(num_domains, channels, device=device, dtype=dtype))


class StarNorm(DomainLayer):
    """Wraps a norm over the last axis: for the rows of domain k, gain `γ · (1 + δγ_k)` and bias `β + δβ_k`.

    A layer norm has no statistics of the batch, so these are all there is to partition.
    """

    def __init__(self, base_layer: nn.LayerNorm | nn.BatchNorm1d, adapter_name: str, config: StarConfig):
        super().__init__(base_layer, adapter_name)
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: StarConfig) -> None:  # type: ignore[override]
        """Adds, or starts afresh, the deviations of an adapter."""
        self.peterrec_star_deviation[adapter_name] = self.start(config.num_domains)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def start(self, num_domains: int) -> NormDeviation:
        """Deviations without effect, in float32 or more."""
        norm = self.base_layer
        assert isinstance(norm, nn.LayerNorm)
        like = norm.weight if norm.elementwise_affine else torch.empty(0)
        dtype = torch.promote_types(like.dtype, torch.float32)
        return NormDeviation(norm.normalized_shape[0], num_domains=num_domains, device=like.device, dtype=dtype)

    def adapt(self, adapter_name: str, x: Tensor, y: Tensor, domain_ids: Tensor | None) -> Tensor:
        own = self.own(adapter_name)
        index = self.index(adapter_name, x, domain_ids)
        frozen = self.frozen_output(x, y)
        bias = self.base_layer.bias
        scaled = frozen if bias is None else frozen - bias  # type: ignore[operator]
        added = scaled * row_vectors(own.weight, index, dims=y.dim()) + row_vectors(own.bias, index, dims=y.dim())
        return (y + added).to(y.dtype)

    def changes(self, adapter_name: str, domain: int) -> dict[str, Tensor]:
        own = self.own(adapter_name)
        gain = self.base_layer.weight
        return {
            "weight": own.weight[domain] if gain is None else gain * own.weight[domain],  # type: ignore[operator]
            "bias": own.bias[domain],
        }

    def own(self, adapter_name: str) -> NormDeviation:
        """The deviations of an adapter."""
        own = self.peterrec_star_deviation[adapter_name]
        assert isinstance(own, NormDeviation)
        return own
