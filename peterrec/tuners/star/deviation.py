"""By what a domain's weights differ from the shared ones: Δ of `W ⊙ (1 + Δ_k)`, Δb of `b + Δb_k`.

All are matrices or stacks of matrices, and zero means no difference; an optimiser that decays matrices therefore pulls
Δ and Δb to the shared weights.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peterrec.tuners.star.domains import chosen_linear, row_linear, row_vectors


class Deviation(nn.Module):
    """Deviations of K domains from a linear map; `bias` `(K, D_out)` where the map has one."""

    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear, *, num_domains: int):
        super().__init__()
        self.num_domains = num_domains
        self.like: dict[str, torch.dtype | torch.device] = {
            "device": linear.weight.device,
            # low precision would lose small deviations
            "dtype": torch.promote_types(linear.weight.dtype, torch.float32),
        }
        self.register_parameter("bias", None if linear.bias is None else self.zeros(linear.out_features))

    def zeros(self, *shape: int) -> nn.Parameter:
        """A parameter `(K, *shape)` of zeros."""
        return nn.Parameter(torch.zeros(self.num_domains, *shape, **self.like))  # type: ignore[arg-type]

    @abstractmethod
    def factors(self) -> Tensor:
        """Δ, `(K, D_out, D_in)` or `(K, D_out, 1)`."""

    def multiplied(self, x: Tensor, y: Tensor, linear: nn.Linear, index: Tensor | None) -> Tensor:
        """`(W ⊙ Δ_k) x` for the domain k of each row, `(B, …, D_out)`; `y` is the map's own output for `x`.

        Computed in the type of the map, of `autocast` where it is on.
        """
        dtype = _dtype(x)
        weights = linear.weight * self.factors()
        return row_linear(x.to(dtype), weights.to(dtype), index)

    def product(self, x: Tensor, linear: nn.Linear, index: Tensor | None) -> Tensor:
        """`(W ⊙ (1 + Δ_k)) x` for the domain k of each row, `(B, …, D_out)`; `W x` for an unknown domain.

        One product, where the map's own output is not wanted beside it; types as in `multiplied`.
        """
        dtype = _dtype(x)
        weights = (linear.weight * (1 + self.factors())).to(dtype)
        if index is None:
            return F.linear(x.to(dtype), weights[0])
        weights = torch.cat([weights, linear.weight.to(dtype).unsqueeze(0)])
        return chosen_linear(x.to(dtype), weights, index)


class Full(Deviation):
    """Δ of the shape of W for each domain, as published."""

    def __init__(self, linear: nn.Linear, *, num_domains: int, rank: int):
        super().__init__(linear, num_domains=num_domains)
        self.weight = self.zeros(linear.out_features, linear.in_features)

    def factors(self) -> Tensor:
        return self.weight


class LowRank(Deviation):
    """Δ as `left @ right` `(K, D_out, r)`, `(K, r, D_in)`.

    `left` starts at zero, `right` does not, or neither would ever move. The product is formed before it is applied:
    the r scaled products that would do without it took 3 to 10 times as long on a CPU (r = 4).
    """

    def __init__(self, linear: nn.Linear, *, num_domains: int, rank: int):
        super().__init__(linear, num_domains=num_domains)
        self.left = self.zeros(linear.out_features, rank)
        self.right = self.zeros(rank, linear.in_features)
        if self.right.device.type != "meta":
            nn.init.normal_(self.right, std=rank**-0.5)

    def factors(self) -> Tensor:
        kind = self.left.device.type
        with torch.autocast(kind, enabled=False):  # it would round small deviations
            return self.left @ self.right


class PerChannel(Deviation):
    """One factor an output channel, `(K, D_out)`: no second product and no grouping of rows."""

    def __init__(self, linear: nn.Linear, *, num_domains: int, rank: int):
        super().__init__(linear, num_domains=num_domains)
        self.weight = self.zeros(linear.out_features)

    def factors(self) -> Tensor:
        return self.weight.unsqueeze(2)

    def multiplied(self, x: Tensor, y: Tensor, linear: nn.Linear, index: Tensor | None) -> Tensor:
        product = y if linear.bias is None else y - linear.bias
        return product * row_vectors(self.weight, index, dims=y.dim())

    def product(self, x: Tensor, linear: nn.Linear, index: Tensor | None) -> Tensor:
        y = F.linear(x, linear.weight)
        return (y * (1 + row_vectors(self.weight, index, dims=y.dim()))).to(y.dtype)


FORMS: dict[str, type[Full] | type[LowRank] | type[PerChannel]] = {
    "full": Full,
    "low_rank": LowRank,
    "per_channel": PerChannel,
}


def _dtype(x: Tensor) -> torch.dtype:
    """In which type a map computes what `x` gives."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
