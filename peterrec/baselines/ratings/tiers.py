"""Koren's three tiers of a rating: biases, factors, neighbourhood, each there or not."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STD = 0.1  # of the factors of one user or item at start, all together


@dataclass(frozen=True)
class Bags:
    """Ragged lists: entries (M,), where each list begins (L,), and what its sum is multiplied by (L,)."""

    entries: Tensor
    begins: Tensor
    scale: Tensor


@dataclass(frozen=True)
class RatingBatch:
    """B rows: `users` and `items` (B,); of a network with implicit factors the lists N(u) of its L users, and which of
    these each row is of (B,); with a neighbourhood the lists of places in its tables, of rated and of all neighbours.

    `left` (M,) are the r_uj − b_uj of the entries of `near`; `near_rated` scales their sum.
    """

    users: Tensor
    items: Tensor
    chosen: Bags | None = None
    whose: Tensor | None = None
    near: Bags | None = None
    near_rated: Tensor | None = None
    left: Tensor | None = None


class Tiers(nn.Module):
    """The sum of what it has of

    * biases μ + b_u + b_i,
    * `factors` q_i · p_u, with `implicit` q_i · (p_u + |N(u)|^−½ Σ_{j∈N(u)} y_j),
    * with `neighbours` k > 0, |R^k(i;u)|^−½ Σ (r_uj − b_uj) w_ij + |N^k(i;u)|^−½ Σ c_ij

    (Koren, KDD 2008, §3 to §5). Tables have one row more than users or items, for those that are unknown. Weights of
    neighbours are one for each of the k neighbours of an item, 0 at start.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        mean: float,
        factors: int = 0,
        implicit: bool = False,
        neighbours: int = 0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        assert factors or not implicit
        self.mean = mean
        self.user_bias = nn.Parameter(torch.zeros(num_users + 1))
        self.item_bias = nn.Parameter(torch.zeros(num_items + 1))

        def table(rows: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows + 1, factors, generator=generator) * (STD / factors**0.5))

        self.user_factors = table(num_users) if factors else None
        self.item_factors = table(num_items) if factors else None
        self.chosen_factors = table(num_items) if implicit else None
        size = (num_items + 1) * neighbours
        self.rated_weights = nn.Parameter(torch.zeros(size, 1)) if neighbours else None
        self.chosen_weights = nn.Parameter(torch.zeros(size, 1)) if neighbours else None

    def forward(self, batch: RatingBatch) -> Tensor:
        """The ratings (B,)."""
        found = self.mean + self.user_bias[batch.users] + self.item_bias[batch.items]
        if self.user_factors is not None and self.item_factors is not None:
            user = F.embedding(batch.users, self.user_factors)
            if self.chosen_factors is not None:
                assert batch.chosen is not None
                assert batch.whose is not None
                bags = batch.chosen
                chosen = F.embedding_bag(bags.entries, self.chosen_factors, bags.begins, mode="sum")
                user = user + F.embedding(batch.whose, chosen * bags.scale.unsqueeze(1))
            found = found + (F.embedding(batch.items, self.item_factors) * user).sum(1)
        if self.rated_weights is not None and self.chosen_weights is not None:
            bags = batch.near
            assert bags is not None
            assert batch.near_rated is not None
            rated = F.embedding_bag(
                bags.entries, self.rated_weights, bags.begins, mode="sum", per_sample_weights=batch.left
            )
            chosen = F.embedding_bag(bags.entries, self.chosen_weights, bags.begins, mode="sum")
            found = found + rated.squeeze(1) * batch.near_rated + chosen.squeeze(1) * bags.scale
        return found

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The biases and factors, and the weights of neighbours."""
        near = [one for one in (self.rated_weights, self.chosen_weights) if one is not None]
        return [one for one in self.parameters() if all(one is not other for other in near)], near

    def penalty(self, batch: RatingBatch, *, biases: float, factors: float, neighbours: float) -> Tensor:
        """The squares of all parameters that a row reads, times what their kind is penalised by, summed over rows `()`.

        That is the λ of Koren's stochastic gradient descent, which shrinks a parameter once for each rating it has a
        part in. w of a neighbour without a rating counts for nothing.
        """
        total = biases * (self.user_bias[batch.users].square().sum() + self.item_bias[batch.items].square().sum())
        if self.user_factors is not None and self.item_factors is not None:
            for ids, table in ((batch.users, self.user_factors), (batch.items, self.item_factors)):
                total = total + factors * F.embedding(ids, table).square().sum()
            if self.chosen_factors is not None:
                assert batch.chosen is not None
                assert batch.whose is not None
                square = self.chosen_factors.square().sum(1, keepdim=True)
                chosen = F.embedding_bag(batch.chosen.entries, square, batch.chosen.begins, mode="sum")
                total = total + factors * F.embedding(batch.whose, chosen).sum()
        if self.rated_weights is not None and self.chosen_weights is not None:
            assert batch.near is not None
            assert batch.left is not None
            rated = F.embedding(batch.near.entries, self.rated_weights).squeeze(1) * (batch.left != 0)
            chosen = F.embedding(batch.near.entries, self.chosen_weights)
            total = total + neighbours * (rated.square().sum() + chosen.square().sum())
        return total

    @torch.no_grad()
    def forget(self, users: Tensor, items: Tensor, chosen: Tensor) -> None:
        """Sets to 0 what was never taught: of users (U + 1,) and items (I + 1,), and what choosing an item says
        (I + 1,), where these are not True."""
        for table, known in (
            (self.user_bias, users),
            (self.item_bias, items),
            (self.user_factors, users),
            (self.item_factors, items),
            (self.chosen_factors, chosen),
        ):
            if table is not None:
                table[~known] = 0.0
