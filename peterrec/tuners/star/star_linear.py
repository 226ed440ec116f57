"""Linear maps whose shared weights train together with those of the domains: STAR from scratch."""

from typing import Literal

from torch import Tensor, nn

from peterrec.mlp import RowLinear
from peterrec.tuners.star.deviation import FORMS, Deviation
from peterrec.tuners.star.domains import domain_index, row_vectors

Form = Literal["full", "low_rank", "per_channel"]


class StarLinear(RowLinear):
    """For the rows of domain k, weight `W ⊙ (1 + Δ_k)` and bias `b + Δb_k`; W and b train too (STAR, CIKM 2021, 4.3).

    Rows of all domains teach W and b; rows of an unknown domain see these alone. Δ is zero at the start and decays to
    zero, so a domain's factor `1 + Δ_k` decays to 1. W and b are the parameters of `linear`, under their names.
    """

    def __init__(self, linear: nn.Linear, *, num_domains: int, form: Form, rank: int):
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self.deviation: Deviation = FORMS[form](linear, num_domains=num_domains, rank=rank)

    def forward(self, input: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps `(B, …, D_in)` to `(B, …, D_out)`; ValueError where `domain_ids` `(B,)` is wrong, or missing with K > 1.

        Ids outside of `[0, K)` are unknown domains.
        """
        own = self.deviation
        index = domain_index(domain_ids, rows=len(input), num_domains=own.num_domains)
        y = own.product(input, self, index)
        if own.bias is None:
            return y
        return y + (self.bias + row_vectors(own.bias, index, dims=y.dim())).to(y.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_domains={self.deviation.num_domains}"


def add_star(module: nn.Module, *, num_domains: int, form: Form, rank: int) -> None:
    """Every linear map inside `module` that knows domains becomes a `StarLinear`, in place; their weights stay.

    `form` and `rank` are as in `StarConfig`. A map that stands in several places stays one. What the module computes
    is the same until Δ moves. Call it before an optimiser is made.
    """
    made: dict[int, StarLinear] = {}
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if not isinstance(child, RowLinear):
                continue
            assert not isinstance(child, StarLinear), f"{name} has weights a domain already"
            if id(child) not in made:
                star = StarLinear(child, num_domains=num_domains, form=form, rank=rank)
                made[id(child)] = star.train(child.training)
            setattr(parent, name, made[id(child)])
    assert made, f"{type(module).__name__} has no linear map that knows domains"
