"""Pretraining by a weighted sum of objectives, as a program for the training loop."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from peterrec.data.sequences import Sequences
from peterrec.encoders.base import UserEncoder
from peterrec.errors import DataError
from peterrec.inference import rank_next_items
from peterrec.metrics.ranking import ranking_metrics
from peterrec.objectives.bag import BagOutput
from peterrec.objectives.contrastive import Projection
from peterrec.objectives.next_item import NextItemBatch
from peterrec.objectives.serving import check_encoder
from peterrec.objectives.settings import ObjectiveSettings
from peterrec.objectives.step_negatives import StepNegatives, item_counts
from peterrec.training.pretraining_model import PretrainingModel
from peterrec.training.pretraining_settings import PretrainingSettings
from peterrec.training.sharding import describe_sharding, shard_tables
from peterrec.training.step import Step
from peterrec.training.table_update import describe_table_update, row_updates
from peterrec.training.user_matching import FEWEST, UserMatching, choose_watched
from peterrec.training.user_steps import GroupPiece, UserSteps, spread
from peterrec.training.window_steps import Piece, WindowSteps


class PretrainingProgram:
    """Trains `encoder` on `train`, watched on `validation`; `model` is the encoder with what only training needs.

    The loss of a step is the sum over `objectives` of weight × mean loss over that objective's targets in the step. A
    step has a batch of windows, for the objective that looks at positions, and the groups of users that fall to it, for
    those that compare users; an objective without a target in a step adds nothing to it. With user-level objectives
    alone a step is one group. Where early stopping watches what is learnt of users, those that it watches stand in no
    group.
    """

    def __init__(
        self,
        encoder: UserEncoder,
        *,
        train: Sequences,
        validation: Sequences,
        objective: ObjectiveSettings,
        settings: PretrainingSettings,
    ):
        if not len(validation):
            raise DataError(
                "The validation part has no users, so nothing says when to stop. Prepare the log with another split "
                "or other cuts."
            )
        check_encoder(objective, encoder)
        self.encoder = encoder
        self.metric = objective.metric
        self.weights = objective.weights
        self.objectives = tuple(self.weights)
        self._objective = objective
        self._settings = settings
        self._validation = validation
        self.rows = encoder.config.vocab_size
        self.sampled = objective.scores_items and objective.sampled(self.rows)
        # without a softmax over the whole of it, a step touches the rows that it looks up
        self._some_rows = self.sampled or not objective.scores_by_item_table
        negatives = StepNegatives(train, objective=objective, rows=self.rows) if self.sampled else None
        encoder.sparse_rows = row_updates(settings, rows=self.rows, sampled=self._some_rows) is not None
        self.model: nn.Module = encoder
        model = self._extended(encoder, train) if objective.user_level else None
        if settings.shard_tables:
            shard_tables(encoder, sampled=self._some_rows)
        users = np.random.default_rng((settings.seed, 3)).permutation(len(validation))
        self._ranked = np.sort(users[: settings.validation_users])
        self._windows: WindowSteps | None = None
        self._users: UserSteps | None = None
        self._matching: UserMatching | None = None
        self._kept_out = 0
        shared = {"objective": objective, "settings": settings, "negatives": negatives}
        if objective.position_level:
            self._windows = WindowSteps(encoder, train=train, **shared)
        if model is not None:
            self.model = model
        watches_users, seed = self.metric in FEWEST, settings.seed
        if watches_users or model is not None:
            watched = choose_watched(
                train,
                validation,
                figure=self.metric if watches_users else None,
                most=settings.validation_users,
                keep_out=watches_users and model is not None,
                seed=seed,
            )
            self._kept_out = len(watched.kept_out)
            self._matching = UserMatching(validation, rows=watched.rows, most_events=objective.view_length, seed=seed)
            if model is not None:
                whole = settings.shard_tables
                self._users = UserSteps(model, train=train, kept_out=watched.kept_out, whole=whole, **shared)
        self._sums: Tensor | None = None

    def _extended(self, encoder: UserEncoder, train: Sequences) -> PretrainingModel:
        objective, bag = self._objective, None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._settings.seed + 1)  # the encoder's own weights are drawn from the seed
            projection = Projection(encoder.config.hidden_size) if "contrast" in objective.weights else None
            if "bag" in objective.weights:
                bag = BagOutput(
                    encoder,
                    counts=item_counts(train, rows=self.rows),
                    tied=objective.bag_table == "tied",
                    sparse=encoder.sparse_rows and self.sampled,
                )
        found = PretrainingModel(encoder, projection=projection, bag=bag)
        for extra in (projection, bag):
            if extra is not None:
                extra.to(device=encoder.device, dtype=encoder.dtype)
        return found

    def plan(self, *, processes: int = 1) -> list[str]:
        """In words: the loss, who is watched, which softmax and which update of the item table the catalogue gets, and
        why; and what several `processes` or compiling do not speed up."""
        told = [] if self.weights == {"next_item": 1.0} else [self._objective.combination()]
        if self._kept_out:
            what = "The last epoch is kept;" if self._settings.keeps_last else "Early stopping watches"
            told.append(f"{what} {self.metric}: {self._kept_out:,} training users are watched and stand in no group.")
        if self._users is not None and processes > 1:
            alone = "" if self._windows is not None else "; a step is one group: more processes do not speed it up"
            told.append(f"Each group of users is computed by one of the {processes} processes{alone}.")
        if self._windows is None and self._settings.compile:
            told.append(
                "training.compile compiles nothing here: views of users come in many shapes and run as written."
            )
        if self._objective.scores_items:
            told.append(self._objective.describe(self.rows))
        told.append(describe_table_update(self._settings, rows=self.rows, sampled=self._some_rows))
        return [*told, describe_sharding(self.model)] if self._settings.shard_tables else told

    def steps(self, epoch: int) -> Sequence[Step]:
        """The batches of an epoch, a pure function of the seed and the epoch."""
        if self._users is None:
            assert self._windows is not None
            return self._windows.steps(epoch)
        groups = self._users.groups(epoch)
        if self._windows is None:
            none = np.zeros(0, dtype=np.int64)
            return [Step(epoch, number, none, none, none, groups=(group,)) for number, group in enumerate(groups)]
        steps = self._windows.steps(epoch)
        dealt = spread(groups, len(steps))
        return [replace(step, groups=own) for step, own in zip(steps, dealt, strict=True)]

    def counts(self, step: Step) -> dict[str, int]:
        """The targets of each of `objectives` in a step: positions with something to predict, or views."""
        found = {}
        if self._windows is not None:
            found[self._windows.name] = self._windows.count(step)
        if self._users is not None:
            found |= dict.fromkeys(self._users.objectives, self._users.count(step))
        return found

    def num_targets(self, step: Step) -> int:
        """The targets of all objectives together."""
        return sum(self.counts(step).values())

    def weight(self, step: Step) -> float:
        """The same: what weights make of it is in the loss of a piece."""
        return self.num_targets(step)

    def pieces(self, step: Step, *, part: int, parts: int) -> Sequence[Piece | GroupPiece]:
        """What a process computes of a step: its share of the windows, and whole groups of users."""
        counts, weights = self.counts(step), self.weights
        total = sum(counts.values())
        found: list[Piece | GroupPiece] = []
        # the loop weighs all targets of a step alike; the scale makes of that a weighted sum of means
        if self._windows is not None and counts[self._windows.name]:
            scale = weights[self._windows.name] * (total / counts[self._windows.name])
            found += [replace(p, scale=scale) for p in self._windows.pieces(step, part=part, parts=parts)]
        if self._users is not None and step.groups:
            scale = total / sum(counts[name] for name in self._users.objectives)
            found += [replace(p, scale=scale) for p in self._users.pieces(step, part=part, parts=parts)]
        return found

    def loss(self, piece: Piece | GroupPiece, device: torch.device) -> tuple[Tensor, float]:
        """The loss of a piece and its number of targets."""
        if isinstance(piece, GroupPiece):
            assert self._users is not None
            names, losses = self._users.objectives, self._users.losses(piece, device)
            targets = 2 * len(piece.group.users) if piece.counted else 0
            loss = sum(self.weights[name] * each for name, each in zip(names, losses, strict=True))
            assert isinstance(loss, Tensor)
        else:
            assert self._windows is not None
            names, losses = (self._windows.name,), [self._windows.loss(self.model, piece, device)]
            targets = self._windows.count(piece) if piece.counted else 0
            loss = losses[0]
        self._note(names, losses, targets=targets, device=device)
        return loss * piece.scale, targets * len(names)

    def batch(self, piece: Piece) -> NextItemBatch:
        """Inputs and targets of some windows."""
        assert self._windows is not None
        return self._windows.batch(piece)

    def take_losses(self) -> Tensor | None:
        """The losses of each of `objectives` `(T,)`, summed over their targets since the last call; None: no piece."""
        taken, self._sums = self._sums, None
        return taken

    def validate(self) -> dict[str, float]:
        """HR, NDCG and MRR at 10 where positions are predicted or it is watched; what `UserMatching` finds else."""
        found = {}
        if self._windows is not None or self.metric == "ndcg@10":
            ranks = rank_next_items(
                self.encoder,
                self._validation,
                rows=self._ranked,
                max_length=self.encoder.config.max_length,
                device=next(self.encoder.parameters()).device,
            )
            found = {name: float(values.mean()) for name, values in ranking_metrics(ranks, ks=(10,)).items()}
        if self._matching is None:
            return found
        bag = self.model.bag if isinstance(self.model, PretrainingModel) else None
        return found | self._matching.measure(self.encoder, bag=bag)

    def _note(self, names: Sequence[str], losses: Sequence[Tensor], *, targets: int, device: torch.device) -> None:
        """Adds to what `take_losses` gives."""
        if self._sums is None:
            self._sums = torch.zeros(len(self.objectives), device=device)
        for name, each in zip(names, losses, strict=True):
            self._sums[self.objectives.index(name)].add_(each.detach(), alpha=targets)
