"""The user-level part of pretraining: groups of users, two views of each, contrast and bag."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.sequences import Sequences
from peterrec.data.views import Views, draw_views, eligible
from peterrec.errors import DataError, SettingsError
from peterrec.objectives.bag import BagBatch
from peterrec.objectives.contrastive import contrastive_loss
from peterrec.objectives.settings import ObjectiveSettings
from peterrec.objectives.step_negatives import StepNegatives
from peterrec.training.micro_batch import micro_batch
from peterrec.training.pretraining_model import PretrainingModel
from peterrec.training.settings import TrainingSettings
from peterrec.training.step import Group, Step
from peterrec.training.view_encoding import encode_views

POSITIONS = 2**18  # views × length at a time where there is no processor's cache to fill


@dataclass(frozen=True)
class GroupPiece:
    """A whole group; one that is not `counted` is computed without weight, beside a process that has one more.
    The loss is multiplied by `scale`."""

    group: Group
    counted: bool = True
    scale: float = 1.0


class UserSteps:
    """Groups of users of `train`, and the losses of a group.

    The users of a group stay together, in one piece, on one process: the contrast takes its negatives there. An epoch
    passes over all users with two events `objective.user_passes` times, in groups of nearly one size, no user twice in
    one, but for those of the rows `kept_out`. Views and negatives are drawn for each group from (seed, epoch, number of
    the group). Raises DataError where fewer than two users have two events, SettingsError for views that dropout shall
    tell apart where there is none.
    """

    def __init__(
        self,
        model: PretrainingModel,
        *,
        train: Sequences,
        objective: ObjectiveSettings,
        settings: TrainingSettings,
        negatives: StepNegatives | None,
        kept_out: NDArray[np.int64],
        whole: bool,
    ) -> None:
        self.objectives = objective.user_level
        self._model = model
        self._train = train
        self._objective = objective
        self._settings = settings
        self._negatives = negatives
        self._whole = whole  # lookups in all processes go together, so that no group is cut
        self._users = np.setdiff1d(eligible(train.lengths), kept_out)
        if len(self._users) < 2:
            raise DataError(
                f"{len(self._users)} training user(s) have two events, but user-level objectives compare users: set "
                "objective.contrast=0 and objective.bag=0, or prepare a longer log."
            )
        same = objective.views == "dropout" or (objective.views == "crops" and objective.crop_share == 1)
        if same and not model.encoder.config.dropout:
            whole_crops = " of crop_share 1" if objective.views == "crops" else ""
            raise SettingsError(
                f"objective.views = {objective.views}{whole_crops}, but encoder.dropout = 0, so that both views would "
                "be the same; set encoder.dropout above 0, or objective.views=halves."
            )

    def groups(self, epoch: int) -> list[Group]:
        """The groups of an epoch, a pure function of the seed and the epoch."""
        rng = np.random.default_rng((self._settings.seed, epoch, 5))
        each = -(-len(self._users) // self._objective.group_users)
        wanted = max(round(self._objective.user_passes * each), 1)
        found: list[Group] = []
        while len(found) < wanted:
            for users in np.array_split(rng.permutation(self._users), each)[: wanted - len(found)]:
                found.append(Group(epoch, len(found), users))
        return found

    def count(self, step: Step) -> int:
        """How many views the groups of a step have: each is a target of each objective."""
        return 2 * sum(len(group.users) for group in step.groups)

    def pieces(self, step: Step, *, part: int, parts: int) -> list[GroupPiece]:
        """The groups that process `part` of `parts` computes; where lookups go together, all get as many."""
        owner = [(step.number + place) % parts for place in range(len(step.groups))]
        found = [GroupPiece(group) for group, own in zip(step.groups, owner, strict=True) if own == part]
        if self._whole and step.groups:
            most = int(np.bincount(owner).max())
            first = step.groups[0]
            shortest = first.users[np.argmin(self._train.lengths[first.users])][None]
            filler = GroupPiece(Group(first.epoch, first.number, shortest), counted=False)
            found += [filler] * (most - len(found))
        return found

    def views(self, group: Group) -> Views:
        """The views of a group's users."""
        objective = self._objective
        return draw_views(
            self._train,
            group.users,
            kind=objective.views,
            most=objective.view_length,
            crop_share=objective.crop_share,
            rng=np.random.default_rng((self._settings.seed, group.epoch, 6, group.number)),
        )

    def losses(self, piece: GroupPiece, device: torch.device) -> list[Tensor]:
        """The mean loss `()` of each of `objectives` over the views of a group."""
        views, model = self.views(piece.group), self._model
        limit = None if self._whole else micro_batch(model.encoder, self._settings) or POSITIONS
        # in its own words, not compiled: views come in many shapes
        vectors = encode_views(model.encoder, views, positions=limit, device=device)
        made = {"contrast": partial(self._contrast, vectors), "bag": partial(self._bag, vectors, piece.group, views)}
        return [made[name]() for name in self.objectives]

    def _contrast(self, vectors: Tensor) -> Tensor:
        assert self._model.projection is not None
        first, second = self._model.projection(vectors).chunk(2)
        return contrastive_loss(first, second, temperature=self._objective.temperature)

    def _bag(self, vectors: Tensor, group: Group, views: Views) -> Tensor:
        assert self._model.bag is not None
        batch = BagBatch.of(views)
        if self._negatives is not None:
            lengths = self._train.lengths[group.users]
            rng = np.random.default_rng((self._settings.seed, group.epoch, 7, group.number))
            drawn = self._negatives.draw(rng, row=group.users, start=np.zeros_like(lengths), stop=lengths)
            batch = batch.among(drawn.of(np.arange(2 * views.users) % views.users))
        return self._model.bag.loss(vectors, batch.to(vectors.device), encoder=self._model.encoder)


def spread(groups: Sequence[Group], steps: int) -> list[tuple[Group, ...]]:
    """Deals the groups of an epoch out to its steps as evenly as can be, in order."""
    bounds = [number * len(groups) // steps for number in range(steps + 1)]
    return [tuple(groups[first:stop]) for first, stop in pairwise(bounds)]
