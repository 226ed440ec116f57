"""Partitioned normalisation on batch norms: also mean and variance a domain (STAR, CIKM 2021, section 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peterrec.tuners.star.domains import row_vectors
from peterrec.tuners.star.moments import domain_moments, follow
from peterrec.tuners.star.norm import NormDeviation, StarNorm


class BatchNormDeviation(NormDeviation):
    """Deviations from a batch norm, and the running statistics of each domain.

    Buffers `running_mean`, `running_var` `(K, D)` start as the norm's own; `batches` `(K,)` counts the batches of each.
    """

    running_mean: Tensor
    running_var: Tensor
    batches: Tensor

    def __init__(self, norm: nn.BatchNorm1d, *, num_domains: int):
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        dtype = torch.promote_types(mean.dtype, torch.float32)
        super().__init__(norm.num_features, num_domains=num_domains, device=mean.device, dtype=dtype)
        self.register_buffer("running_mean", mean.to(dtype).repeat(num_domains, 1))
        self.register_buffer("running_var", var.to(dtype).repeat(num_domains, 1))
        self.register_buffer("batches", torch.zeros(num_domains, dtype=torch.long, device=mean.device))


class StarBatchNorm(StarNorm):
    """Wraps a batch norm over `(B, D)` or `(B, D, L)`.

    In training, the rows of a domain are normalised by their own mean and variance, which also move the domain's
    running statistics; a domain with a single row in the batch uses its running statistics and leaves them alone.
    In evaluation all domains use theirs, so that no row depends on the others. Rows of an unknown domain always use
    what the frozen norm has learned, which never changes, whether adapters are disabled or not. Under activation
    checkpointing the running statistics move twice a step, as those of a stock batch norm do.
    """

    base_layer: nn.BatchNorm1d

    def start(self, num_domains: int) -> BatchNormDeviation:
        return BatchNormDeviation(self.base_layer, num_domains=num_domains)

    def own(self, adapter_name: str) -> BatchNormDeviation:
        own = super().own(adapter_name)
        assert isinstance(own, BatchNormDeviation)
        return own

    def run_base(self, x: Tensor, *args: Tensor | None, domain_ids: Tensor | None) -> Tensor:
        norm = self.base_layer
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)

    def adapt(self, adapter_name: str, x: Tensor, y: Tensor, domain_ids: Tensor | None) -> Tensor:
        own = self.own(adapter_name)
        index = self.index(adapter_name, x, domain_ids)
        with torch.autocast(x.device.type, enabled=False):  # statistics in full precision, as of stock batch norms
            values = x.to(own.weight.dtype)
            if self.training:
                every = torch.zeros(len(x), dtype=torch.long, device=x.device) if index is None else index
                return self._train(own, values, y, self.frozen_output(x, y), every)
            scale, shift = self._differences(own)
            scale = row_vectors(scale, index, dims=x.dim(), axis=1)
            shift = row_vectors(shift, index, dims=x.dim(), axis=1)
            return (y + torch.addcmul(shift, values, scale)).to(y.dtype)

    def changes(self, adapter_name: str, domain: int) -> dict[str, Tensor]:
        scale, shift = (difference[domain] for difference in self._differences(self.own(adapter_name)))
        mean, var = self._statistics(scale.dtype)
        # the statistics stay; gain and bias make up for them
        return {"weight": scale * (var + self.base_layer.eps).sqrt(), "bias": shift + scale * mean}

    def _statistics(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Running mean and variance `(D,)` of the frozen norm."""
        mean, var = self.base_layer.running_mean, self.base_layer.running_var
        assert mean is not None
        assert var is not None
        return mean.to(dtype), var.to(dtype)

    def _affine(self, own: BatchNormDeviation) -> tuple[Tensor, Tensor]:
        """Gain and bias `(K, D)` of the domains."""
        gain, bias = self.base_layer.weight, self.base_layer.bias
        return (1 + own.weight if gain is None else gain * (1 + own.weight)), (
            own.bias if bias is None else bias + own.bias
        )

    def _differences(self, own: BatchNormDeviation) -> tuple[Tensor, Tensor]:
        """Scale and shift `(K, D)` of the domains in evaluation, less those of the frozen norm: zero at the start."""
        eps = self.base_layer.eps
        gain, bias = self._affine(own)
        scale = gain * (own.running_var + eps).rsqrt()
        shift = bias - own.running_mean * scale
        mean, var = self._statistics(scale.dtype)
        frozen_scale = (var + eps).rsqrt()
        if self.base_layer.weight is not None:
            frozen_scale = self.base_layer.weight * frozen_scale
        frozen_shift = -mean * frozen_scale
        if self.base_layer.bias is not None:
            frozen_shift = self.base_layer.bias - mean * frozen_scale
        return scale - frozen_scale, shift - frozen_shift

    def _train(self, own: BatchNormDeviation, x: Tensor, y: Tensor, frozen: Tensor, index: Tensor) -> Tensor:
        found = domain_moments(x, index, num_domains=own.num_domains)
        follow(own.running_mean, own.running_var, own.batches, found, momentum=self.base_layer.momentum)
        mean = torch.where(found.several, found.mean, own.running_mean)
        var = torch.where(found.several, found.var, own.running_var)
        gain, bias = self._affine(own)
        scale = gain * (var + self.base_layer.eps).rsqrt()
        centred = x - row_vectors(mean, index, dims=x.dim(), axis=1)
        normed = centred * row_vectors(scale, index, dims=x.dim(), axis=1)
        normed = normed + row_vectors(bias, index, dims=x.dim(), axis=1)
        known = (index < own.num_domains).view(-1, *[1] * (x.dim() - 1))
        return torch.where(known, normed + (y - frozen), y).to(y.dtype)
