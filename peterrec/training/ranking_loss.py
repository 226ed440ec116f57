"""The losses of ranking as a training computes them: among the items that the training users had."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.cross_domain import PairedLogs
from peterrec.data.upload import upload
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.heads.ranking import RankingHead
from peterrec.objectives.negatives import Negatives, NegativeSampler, by_popularity
from peterrec.objectives.ranking import bce_loss, bpr_loss, pair_scores, sampled_loss, softmax_loss
from peterrec.objectives.user_negatives import UserNegatives
from peterrec.ranking_recipe import Loss

Ints = NDArray[np.int64]
POWER = 0.75  # of popularity, by which the sampled softmax draws


@dataclass(frozen=True)
class OwnNegatives:
    """Candidates `(B, K)` that the users of B examples do not have, and whether there are any `(B,)`."""

    items: Ints
    real: NDArray[np.bool_]


Drawn = Negatives | OwnNegatives | None


class RankingLoss:
    """A loss over the candidates: the special rows, then the items that the training users had, in their order.

    Other items are no negatives: that nobody took what nobody was there to take says nothing of it, and an item that is
    scored through its attributes would be taught to be last. `counts` `(W,)` are the training events of each item, and
    `users` the training users, whose target items are none of their negatives.
    """

    def __init__(self, pairs: PairedLogs, users: Ints, *, counts: Ints, kind: Loss, negatives: int) -> None:
        self.kind = kind
        self._negatives = negatives
        special = np.arange(FIRST_ITEM)
        self.rows = np.concatenate([special, FIRST_ITEM + np.flatnonzero(counts[FIRST_ITEM:])])
        self._kept: dict[torch.device, Tensor] = {}
        self._all = len(self.rows) == len(counts)
        self._place = np.zeros(len(counts), dtype=np.int64)
        self._place[self.rows] = np.arange(len(self.rows))
        if kind == "sampled":
            probabilities = by_popularity(counts[self.rows[FIRST_ITEM:]], power=POWER)
            self._sampler = NegativeSampler(probabilities, number=min(negatives, len(probabilities)))
        elif kind in ("bpr", "bce"):
            self._number = np.full(len(pairs), -1)
            self._number[users] = np.arange(len(users))
            owner = self._number[pairs.owner]
            mine = owner >= 0
            self._own = UserNegatives(owner[mine], self._place[pairs.item[mine]], users=len(users), rows=len(self.rows))

    def candidates(self, targets: NDArray[np.integer]) -> Ints:
        """The places of target rows `(B,)` among the candidates."""
        return self._place[targets]

    def draw(self, rng: np.random.Generator, owners: Ints) -> Drawn:
        """Negatives of a step, whose examples are those of the users `owners` `(B,)`; None for the exact softmax."""
        if self.kind == "softmax":
            return None
        if self.kind == "sampled":
            return self._sampler.draw(rng)
        return OwnNegatives(*self._own.draw(rng, self._number[owners], number=self._negatives))

    def __call__(self, head: RankingHead, queries: Tensor, targets: Ints, drawn: Drawn) -> Tensor:
        """The mean loss of queries `(B, D)` for the candidates `targets` `(B,)`."""
        device = queries.device
        wanted = upload(torch.from_numpy(targets), device)
        if drawn is None:
            rows = None if self._all else self._on(device)
            return softmax_loss(queries, head.vectors(rows), wanted, bias=head.biases(rows))
        if isinstance(drawn, Negatives):
            shared = drawn.to(device)
            # one look-up of both: an item's vector may be a sum over its attributes
            rows = self._on(device).index_select(0, torch.cat([wanted, shared.rows]))
            sizes = [len(wanted), len(shared.rows)]
            biases = head.biases(rows)
            of_targets, of_negatives = head.vectors(rows).split(sizes)
            return sampled_loss(
                queries,
                target_vectors=of_targets,
                negative_vectors=of_negatives,
                targets=wanted,
                negatives=shared,
                target_log_counts=upload(drawn.log_counts_of(targets), device),
                target_bias=None if biases is None else biases[: sizes[0]],
                negative_bias=None if biases is None else biases[sizes[0] :],
            )
        items = np.concatenate([targets[:, None], drawn.items], axis=1)
        rows = self._on(device).index_select(0, upload(torch.from_numpy(items.reshape(-1)), device))
        biases = head.biases(rows)
        scores = pair_scores(
            queries,
            head.vectors(rows).view(*items.shape, -1),
            None if biases is None else biases.view(items.shape),
        )
        loss = bpr_loss if self.kind == "bpr" else bce_loss
        return loss(scores[:, 0], scores[:, 1:], real=upload(torch.from_numpy(drawn.real), device))

    def _on(self, device: torch.device) -> Tensor:
        """The rows of the candidates."""
        if device not in self._kept:
            self._kept[device] = torch.from_numpy(self.rows).to(device)
        return self._kept[device]
