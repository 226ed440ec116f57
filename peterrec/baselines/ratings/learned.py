"""Models of ratings that are trained by gradient: what they share."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from peterrec.baselines.ratings.bias_baseline import BiasBaseline
from peterrec.baselines.ratings.rated_neighbours import RatedNeighbours, entries
from peterrec.baselines.ratings.ratings import Floats, Ints, Ratings
from peterrec.baselines.ratings.similar_items import SimilarItems
from peterrec.baselines.ratings.tiers import Bags, RatingBatch, Tiers
from peterrec.errors import DataError, DivergedError

HELD = 0.05  # of the rows, set aside where no validation rows are given
ROWS_AT_ONCE = 1 << 16  # in prediction


@dataclass(frozen=True, kw_only=True)
class LearnedSettings:
    """How a model is trained: squared error plus penalties, by Adam on `rows` at a time, or fewer, so that an epoch has
    at least about `steps` steps.

    `decay` multiplies the learning rates after each epoch; training stops when the validation RMSE has not fallen for
    `patience` epochs, and the best epoch is kept. The users of a step come from one of `groups` that are drawn anew in
    each epoch, so that a step reads N(u) of few users.
    """

    factors: int = 50
    neighbours: int = 100
    shrinkage: float = 100.0
    learning_rate: float = 5e-3
    decay: float = 0.9
    bias_penalty: float = 0.005
    factor_penalty: float = 0.07
    neighbour_penalty: float = 0.002
    rows: int = 4096
    steps: int = 64
    epochs: int = 30
    patience: int = 3
    groups: int = 16


class Learned:
    """A sum of `Tiers`; which, each model says by `has_factors`, `implicit` and `has_neighbours`. Weights of neighbours
    learn at `neighbour_rate` times the learning rate.

    `epoch` is the one that was kept, `validation_rmse` (E,) what each came to.
    """

    has_factors: ClassVar[bool] = False
    implicit: ClassVar[bool] = False
    has_neighbours: ClassVar[bool] = False
    neighbour_rate: ClassVar[float] = 1.0

    def __init__(self, ratings: Ratings, *, settings: LearnedSettings, seed: int, device: torch.device) -> None:
        self.settings: LearnedSettings = settings
        self.epoch: int = 0
        self.validation_rmse: list[float] = []
        self._ratings, self._device = ratings, device
        baseline = BiasBaseline.fit(ratings)
        self._left = ratings.by_user(ratings.values - baseline.biases(ratings.users, ratings.items))
        self._similar: SimilarItems | None = None
        if self.has_neighbours:
            self._similar = SimilarItems.of(ratings, baseline, count=settings.neighbours, shrinkage=settings.shrinkage)
        self.tiers: Tiers = Tiers(
            ratings.num_users,
            ratings.num_items,
            mean=ratings.mean,
            factors=settings.factors if self.has_factors else 0,
            implicit=self.implicit,
            neighbours=0 if self._similar is None else self._similar.items.shape[1],
            generator=torch.Generator().manual_seed(seed),
        )
        with torch.no_grad():
            self.tiers.user_bias.copy_(torch.from_numpy(baseline.user_bias))
            self.tiers.item_bias.copy_(torch.from_numpy(baseline.item_bias))
        items, _ = ratings.feedback
        chosen = np.zeros(ratings.num_items + 1, dtype=bool)
        chosen[items] = True
        self.tiers.forget(*(torch.from_numpy(known) for known in (*ratings.rated, chosen)))
        self.tiers.to(device)

    @classmethod
    def fit(
        cls,
        ratings: Ratings,
        *,
        validation: Ratings | None = None,
        seed: int = 0,
        settings: LearnedSettings | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Learn from `ratings`, as long as it helps on `validation`; without these, on rows that are set aside of
        `ratings` (one in twenty, and one at least), which then teach nothing.

        Raises DataError where there would be nothing left to learn from, DivergedError where a loss is not finite.
        """
        if validation is None:
            if len(ratings) < 2:
                raise DataError("One rating is too few to learn from, since some are set aside to stop by.")
            order = np.random.default_rng((seed, 53)).permutation(len(ratings))
            held = max(1, round(HELD * len(ratings)))
            ratings, validation = ratings.part(np.sort(order[held:])), ratings.part(np.sort(order[:held]))
        found = cls(ratings, settings=settings or LearnedSettings(), seed=seed, device=torch.device(device))
        found._train(validation, seed=seed)
        return found

    def predict(self, users: Ints, items: Ints) -> Floats:
        """The ratings (B,), clipped."""
        users, items = self._ratings.places(users, items)
        near = self._near(users, items)
        out = np.empty(len(users))
        with torch.inference_mode():
            for start in range(0, len(users), ROWS_AT_ONCE):
                rows = np.arange(start, min(start + ROWS_AT_ONCE, len(users)))
                out[rows] = self.tiers(self._batch(users, items, rows, near)).double().cpu().numpy()
        return self._ratings.clipped(out)

    def _train(self, validation: Ratings, *, seed: int) -> None:
        settings, ratings = self.settings, self._ratings
        near = self._near(ratings.users, ratings.items)
        values, shares = (torch.from_numpy(each).float().to(self._device) for each in (ratings.values, ratings.shares))
        held = self._near(validation.users, validation.items)
        rest, near_weights = self.tiers.parts()
        groups: list[dict[str, Any]] = [{"params": rest}]
        if near_weights:
            groups.append({"params": near_weights, "lr": self.neighbour_rate * settings.learning_rate})
        optimizer = torch.optim.Adam(groups, lr=settings.learning_rate)
        rate = torch.optim.lr_scheduler.ExponentialLR(optimizer, settings.decay)
        best, kept = self._rmse(validation, held), self._state()
        for epoch in range(1, settings.epochs + 1):
            for rows in self._steps(np.random.default_rng((seed, 59, epoch))):
                batch = self._batch(ratings.users, ratings.items, rows, near)
                own = torch.from_numpy(rows).to(self._device)
                error = ((self.tiers(batch) - values[own]).square() * shares[own]).sum()
                penalty = self.tiers.penalty(
                    batch,
                    biases=settings.bias_penalty,
                    factors=settings.factor_penalty,
                    neighbours=settings.neighbour_penalty,
                )
                optimizer.zero_grad(set_to_none=True)
                ((error + penalty) / len(rows)).backward()
                optimizer.step()
            rate.step()
            found = self._rmse(validation, held)
            if not math.isfinite(found):
                raise DivergedError(f"{type(self).__name__}: epoch {epoch} diverged; take a lower learning_rate.")
            self.validation_rmse.append(found)
            if found < best:
                best, kept, self.epoch = found, self._state(), epoch
            elif epoch - self.epoch >= settings.patience:
                break
        self.tiers.load_state_dict(kept)

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.tiers.state_dict().items()}

    def _rmse(self, ratings: Ratings, near: RatedNeighbours | None) -> float:
        """On held-out rows, whose users and items count as in `predict`."""
        users, items = self._ratings.places(ratings.users, ratings.items)
        total = 0.0
        with torch.inference_mode():
            for start in range(0, len(users), ROWS_AT_ONCE):
                rows = np.arange(start, min(start + ROWS_AT_ONCE, len(users)))
                told = self._ratings.clipped(self.tiers(self._batch(users, items, rows, near)).double().cpu().numpy())
                total += float(ratings.shares[rows] @ (told - ratings.values[rows]) ** 2)
        return math.sqrt(total / len(users))

    def _steps(self, rng: np.random.Generator) -> Iterator[Ints]:
        """The rows of each step of an epoch: shuffled within groups of users that are drawn anew."""
        ratings, settings = self._ratings, self.settings
        group = rng.permutation(ratings.num_users) % max(1, settings.groups) if self.implicit else None
        order = rng.permutation(len(ratings))
        if group is not None:
            order = order[np.argsort(group[ratings.users[order]], kind="stable")]
        size = min(settings.rows, max(1, len(order) // settings.steps))
        steps = [order[start : start + size] for start in range(0, len(order), size)]
        for step in rng.permutation(len(steps)):
            yield steps[step]

    def _near(self, users: Ints, items: Ints) -> RatedNeighbours | None:
        if self._similar is None:
            return None
        return RatedNeighbours.of(users, items, similar=self._similar.items, left=self._left, ratings=self._ratings)

    def _batch(self, users: Ints, items: Ints, rows: Ints, near: RatedNeighbours | None) -> RatingBatch:
        """Some `rows` (B,) of users and items (N,), whose neighbours are `near`."""
        chosen = whose = lists = rated = left = None
        if self.implicit:
            who, whose = np.unique(users[rows], return_inverse=True)
            items_of, begins = self._ratings.feedback
            begins = np.append(begins, begins[-1])  # unknown users chose nothing
            where, counts = entries(begins, who)
            chosen = self._bags(items_of[where], counts)
        if near is not None:
            where, counts = entries(near.begins, rows)
            lists = self._bags(near.place[where], counts)
            rated = self._sent(_root(near.explicit[rows]))
            left = self._sent(near.left[where])
        return RatingBatch(
            users=self._sent(users[rows]),
            items=self._sent(items[rows]),
            chosen=chosen,
            whose=None if whose is None else self._sent(whose),
            near=lists,
            near_rated=rated,
            left=left,
        )

    def _bags(self, found: np.ndarray, counts: Ints) -> Bags:
        return Bags(
            self._sent(found), self._sent((np.cumsum(counts) - counts).astype(found.dtype)), self._sent(_root(counts))
        )

    def _sent(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def _root(counts: Ints) -> np.ndarray:
    """n^−½ (L,), 0 of an empty list."""
    return (np.maximum(counts, 1) ** -0.5 * (counts > 0)).astype(np.float32)
