"""The heads of a task on impressions, and what they take of each other."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from peterrec.errors import SettingsError
from peterrec.heads.constant_head import ConstantHead
from peterrec.heads.tower_head import TowerHead
from peterrec.impression_recipe import Head, Tower


class ImpressionHeads(nn.Module):
    """A tower and an output a head, in the order of `heads`; `widths` says how many channels each reads (0: there is no
    body, and a head is a constant).

    `link = "features"` gives a head the features that its parents' outputs read, beside its own and through one more
    layer (DBMTL, Wang et al., arXiv 1902.09154); a parent's features hold those of its own parents. `link = "logits"`
    adds its parents' logits, which hold those of their parents, to its own (the cascade of NMTR, Gao et al., ICDE
    2019). Gradients go back through both.

    Raises SettingsError where a probability hangs on a value's output, or the other way round.
    """

    def __init__(self, heads: Sequence[Head], *, tower: Tower, widths: Sequence[int]):
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
                if not width
                else TowerHead(
                    width,
                    hidden=tower.hidden if head.hidden is None else head.hidden,
                    dropout=tower.dropout,
                    parent_channels=[built[parent].channels for parent in parents] if head.link == "features" else [],
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

    def forward(self, branches: Sequence[Tensor], domain_ids: Tensor | None = None) -> dict[str, Tensor]:
        """One input `(B, H)` a head, with a domain each row `(B,)` or none, to logits or values `(B,)` by name."""
        features: list[Tensor] = []
        raw: list[Tensor] = []
        for head, branch, parents, link in zip(self.heads, branches, self.parents, self.links, strict=True):
            assert isinstance(head, TowerHead | ConstantHead)
            others = [features[parent] for parent in parents] if link == "features" else []
            features.append(head.features(branch, parents=others, domain_ids=domain_ids))
            own = head.raw(features[-1], domain_ids)
            for parent in parents if link == "logits" else ():
                own = own + raw[parent]
            raw.append(own)
        return dict(zip(self.names, raw, strict=True))
