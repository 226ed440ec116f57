"""The heads of a task on impressions, and what they take of each other."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from peterrec.errors import SettingsError
from peterrec.heads.constant_head import ConstantHead
from peterrec.heads.tower_head import TowerHead
from peterrec.impression_recipe import Head, Tower


class ImpressionHeads(nn.Module):
    """A tower and an output a head, in the order of `heads`; `widths` says how many channels each reads, None for a
    head that reads no body: its product alone, or, without one, nothing (a constant, to which terms are added). `dim`
    is the width of the products of those heads that have one.

    `link = "features"` gives a head the features that its parents' outputs read, beside its own and through one more
    layer (DBMTL, Wang et al., arXiv 1902.09154); a parent's features hold those of its own parents. `link = "logits"`
    adds its parents' logits, which hold those of their parents, to its own (the cascade of NMTR, Gao et al., ICDE
    2019). Gradients go back through both.

    Raises SettingsError where a probability hangs on a value's output, or the other way round.
    """

    def __init__(self, heads: Sequence[Head], *, tower: Tower, widths: Sequence[int | None], dim: int = 0):
        super().__init__()
        self.recipes = tuple(heads)
        self.names = tuple(head.name for head in heads)
        self.links = tuple(head.link for head in heads)
        self.parents = tuple(tuple(self.names.index(parent) for parent in head.parents) for head in heads)
        built: list[TowerHead | ConstantHead] = []
        for head, width, parents in zip(heads, widths, self.parents, strict=True):
            assert all(parent < len(built) for parent in parents), f"{head.name} stands before a parent"
            for parent in parents if head.link == "logits" else ():
                if heads[parent].output != head.output:
                    raise SettingsError(
                        f"heads: {head.name!r} is a {head.output} and adds the output of {heads[parent].name!r}, a "
                        f"{heads[parent].output}; use link = 'features'."
                    )
            built.append(
                ConstantHead()
                if width is None and not head.product
                else TowerHead(
                    width,
                    hidden=tower.hidden if head.hidden is None else head.hidden,
                    dropout=tower.dropout,
                    parent_channels=[built[parent].channels for parent in parents] if head.link == "features" else [],
                    product=dim if head.product else 0,
                )
            )
        self.heads = nn.ModuleList(built)

    @torch.no_grad()
    def start_at(self, logits: Mapping[str, float]) -> None:
        """Has the outputs start at these logits, as far as their own part goes: by the biases of their last layers."""
        started: list[float] = []
        for name, head, parents, link in zip(self.names, self.heads, self.parents, self.links, strict=True):
            assert isinstance(head, TowerHead | ConstantHead)
            inherited = sum(started[parent] for parent in parents) if link == "logits" else 0.0
            own = logits.get(name, 0.0) - inherited
            if name in logits:
                head.start_at(own)
            started.append(own + inherited)

    def forward(
        self,
        branches: Sequence[Tensor | None],
        domain_ids: Tensor | None = None,
        *,
        products: Sequence[Tensor | None] | None = None,
    ) -> dict[str, Tensor]:
        """One input `(B, H)` a head, and one product `(B, dim)` or none, with a domain each row `(B,)` or none, to
        logits or values `(B,)` by name."""
        products = [None] * len(self.names) if products is None else products
        features: list[Tensor] = []
        raw: list[Tensor] = []
        for head, branch, product, parents, link in zip(
            self.heads, branches, products, self.parents, self.links, strict=True
        ):
            assert isinstance(head, TowerHead | ConstantHead)
            others = [features[parent] for parent in parents] if link == "features" else []
            features.append(head.features(branch, parents=others, product=product, domain_ids=domain_ids))
            own = head.raw(features[-1], domain_ids)
            for parent in parents if link == "logits" else ():
                own = own + raw[parent]
            raw.append(own)
        return dict(zip(self.names, raw, strict=True))
