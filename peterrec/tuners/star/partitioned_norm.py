"""Partitioned normalisation that trains as a whole (STAR, CIKM 2021, section 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peterrec.tuners.star.domains import domain_index
from peterrec.tuners.star.moments import Moments, domain_moments, follow


class PartitionedNorm(nn.Module):
    """A batch norm of `(B, D)` with gain `γ · (1 + δγ_k)`, bias `β + δβ_k`, mean and variance of each row's domain k.

    In training the rows of a domain are normalised by their own mean and variance, which move the domain's running
    ones; a domain with a single row uses the running ones and leaves them alone. In evaluation all use the running
    ones, so that no row depends on the others.

    Shared are γ, β and running statistics that follow all rows of every batch. With them the rows of unknown domains
    are normalised, in training by those of the whole batch; a domain uses them until its first batch of several rows.
    Running statistics are the average of the first batches until the momentum takes smaller steps, so that they fit
    after one batch: a stock norm starts from mean 0 and variance 1, which small embeddings take long to leave.
    """

    running_mean: Tensor
    running_var: Tensor
    domain_mean: Tensor
    domain_var: Tensor
    batches: Tensor
    all_batches: Tensor

    def __init__(self, channels: int, *, num_domains: int, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.num_domains = num_domains
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        # matrices, so that an optimiser that decays matrices pulls a domain to the shared gain and bias
        self.domain_weight = nn.Parameter(torch.zeros(num_domains, channels))
        self.domain_bias = nn.Parameter(torch.zeros(num_domains, channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("domain_mean", torch.zeros(num_domains, channels))
        self.register_buffer("domain_var", torch.ones(num_domains, channels))
        self.register_buffer("batches", torch.zeros(num_domains, dtype=torch.long))
        self.register_buffer("all_batches", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Normalises `(B, D)`; ValueError where `domain_ids` `(B,)` is wrong, or missing with K > 1.

        Ids outside of `[0, K)` are unknown domains.
        """
        index = domain_index(domain_ids, rows=len(x), num_domains=self.num_domains)
        if index is None:
            index = torch.zeros(len(x), dtype=torch.long, device=x.device)
        with torch.autocast(x.device.type, enabled=False):  # statistics in full precision, as of stock batch norms
            values = x.to(self.weight.dtype)
            mean, var = self._moments(values, index) if self.training else self._running()
            scale = self.weight * (1 + _with_zeros(self.domain_weight)) * (var + self.eps).rsqrt()
            shift = self.bias + _with_zeros(self.domain_bias)
            centred = values - F.embedding(index, mean)
            return torch.addcmul(F.embedding(index, shift), centred, F.embedding(index, scale)).to(x.dtype)

    def _running(self) -> tuple[Tensor, Tensor]:
        """Running mean and variance `(K + 1, D)`, last the shared ones."""
        return _and_last(self.domain_mean, self.running_mean), _and_last(self.domain_var, self.running_var)

    def _moments(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance `(K + 1, D)` in training, last those of all rows; moves the running ones."""
        own = domain_moments(x, index, num_domains=self.num_domains)
        if len(x) < 2:
            return self._running()
        var, mean = torch.var_mean(x, dim=0, correction=0)
        self._follow(own, mean, var * (len(x) / (len(x) - 1)))
        return (
            _and_last(torch.where(own.several, own.mean, self.domain_mean), mean),
            _and_last(torch.where(own.several, own.var, self.domain_var), var),
        )

    @torch.no_grad()
    def _follow(self, own: Moments, mean: Tensor, unbiased_var: Tensor) -> None:
        self.all_batches += 1
        step = (1 / self.all_batches.to(mean.dtype)).clamp(min=self.momentum)
        self.running_mean.lerp_(mean, step)
        self.running_var.lerp_(unbiased_var, step)
        # domains that have no statistics of their own yet have the shared ones
        fresh = (self.batches == 0).unsqueeze(1)
        self.domain_mean.copy_(torch.where(fresh, self.running_mean, self.domain_mean))
        self.domain_var.copy_(torch.where(fresh, self.running_var, self.domain_var))
        follow(self.domain_mean, self.domain_var, self.batches, own, momentum=self.momentum, fresh=True)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, num_domains={self.num_domains}, momentum={self.momentum}, eps={self.eps}"


def _with_zeros(table: Tensor) -> Tensor:
    """A table `(K, D)` with a row of zeros, for unknown domains, below it."""
    return F.pad(table, (0, 0, 0, 1))


def _and_last(table: Tensor, row: Tensor) -> Tensor:
    return torch.cat([table, row.unsqueeze(0)])
