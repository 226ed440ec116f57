"""Training a model of impressions on several objectives at once, as a program for the training loop."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peterrec.balancing.balancer import Balancer
from peterrec.balancing_recipe import BalancerName, Balancing
from peterrec.errors import DataError
from peterrec.metrics.click_rates import auc, explained_variance, information, log_loss, rmse
from peterrec.objective_recipe import Correlation, Measure, Objective
from peterrec.objectives.group_losses import denominator, two_classes
from peterrec.objectives.impression_losses import check_labels
from peterrec.objectives.log_probability import LogProbability
from peterrec.training.correlation import Neighbours
from peterrec.training.impression_balancing import objectives_balanced
from peterrec.training.impression_groups import group_batches, group_part, group_runs, groups_of
from peterrec.training.impression_labels import Wanted, compared, learned, objective_names
from peterrec.training.impression_loss import correlation_sum, summed_loss
from peterrec.training.impression_reader import ImpressionReader
from peterrec.training.impression_step import ImpressionPiece, ImpressionSettings, ImpressionStep
from peterrec.training.micro_batch import micro_batch
from peterrec.training.table_update import update_read_rows

Ints = NDArray[np.int64]
PROBE = 256  # rows by which it is found what objectives share


class ImpressionProgram:
    """Lowers the weighted sum of the objectives' mean losses, each over the rows of its own space.

    Losses of groups are means over the pairs of a step, or over its lists; a step and each of its pieces hold whole
    groups. An objective without a row in a step adds nothing to it. Rows weigh what the data say, where `row_weights`.
    Watched is a mean over the `measures` of `metric` on the validation rows: `auc`, or `log_loss`, whose sign is
    turned; of values the share of the variance that is explained stands in for both, of scores AUC. Each measure
    weighs what its labels tell (`information`), so that a handful of conversions does not decide over many clicks.
    """

    def __init__(
        self,
        data: ImpressionReader,
        *,
        objectives: Sequence[Objective],
        measures: Sequence[Measure],
        train: Ints,
        validation: Ints,
        metric: str,
        row_weights: bool,
        settings: ImpressionSettings,
        correlation: Correlation | None = None,
        balancer: BalancerName = "sum",
        balancing: Balancing | None = None,
        note: Callable[[str], object] | None = None,
    ):
        self.data = data
        self.model: nn.Module = data.network if data.model is None else data.model
        self.metric: str = metric
        self._objectives = tuple(objectives)
        self._measures = tuple(measures)
        self._train = np.sort(train)
        self._validation = validation
        self._settings = settings
        self.balancer: BalancerName = balancer
        self.balancing = Balancing() if balancing is None else balancing
        impressions = data.impressions
        weight = np.ones(len(impressions), dtype=np.float32)
        if row_weights and impressions.weight is not None:
            weight = np.asarray(impressions.weight, dtype=np.float32)
        self._wanted = [learned(impressions, one, weight=weight) for one in self._objectives]
        self._checked = [compared(impressions, one, weight=weight) for one in self._measures]
        within = next((one.group for one in self._objectives if one.group is not None), None)
        self._groups: Ints | None = None if within is None else groups_of(impressions, within)
        self._scores = {one.of for one in self._objectives if one.group is not None}
        for one, found in zip(self._objectives, self._wanted, strict=True):
            check_labels(one.loss, found.label, name=one.label)
            if not found.weight[self._train].any():
                space = "" if one.space is None else f" where {one.space}"
                raise DataError(f"{impressions.folder}: no training row has the label {one.label}{space}.")
            if one.group is not None and not self._weighed(one, found, self._train)[0]:
                raise DataError(
                    f"{impressions.folder}: no {one.group} has training rows with and without {one.label}, so that "
                    'none can be ranked above another. Take another `within`, or loss = "bce".'
                )
        self._mean_weights = [self._mean_weight(found) for found in self._wanted]
        # a squared error counts in units of the variance, so that seconds and shares weigh alike
        self._units = [self._unit(one, found) for one, found in zip(self._objectives, self._wanted, strict=True)]
        data.network.start_at_rates(self._objectives, [self._rate(found) for found in self._wanted])
        self._names = objective_names(self._objectives)
        self._correlation = correlation
        self._neighbours = None
        if correlation is not None:
            label = np.asarray(impressions.labels[correlation.label])
            self._neighbours = Neighbours(impressions, correlation, label=label, train=self._train)
        self._sums: Tensor | None = None
        if data.vectors is not None and data.model is not None:
            of_rows = update_read_rows(data.model.base_encoder, settings)
            for text in (data.vectors.plan(), of_rows):
                if note is not None and text is not None:
                    note(text)

    def _unit(self, one: Objective, found: Wanted) -> float:
        """What a loss of 1 is: of values, the variance of what is learned on the training rows; scales their head."""
        if one.loss == "bce" or one.group is not None:
            return 1.0
        rows = self._train[found.weight[self._train] > 0]
        learned = np.log1p(found.label[rows]) if one.loss == "log_mse" else found.label[rows]
        mean, sd = float(learned.mean(dtype=np.float64)), float(learned.std(dtype=np.float64)) or 1.0
        self.data.network.scale_value(one.of, mean=mean, sd=sd)
        return sd**2

    def _rate(self, found: Wanted) -> float:
        """The mean label of the training rows that count."""
        return float(np.average(found.label[self._train], weights=found.weight[self._train]))

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each objective."""
        found = {name: one.weight for name, one in zip(self._names, self._objectives, strict=True)}
        return found if self._correlation is None else {**found, "correlation": self._correlation.weight}

    def counts(self, step: ImpressionStep) -> Mapping[str, int]:
        """The rows of a step that count for each objective."""
        found = dict(zip(self._names, step.counts, strict=True))
        return found if self._correlation is None else {**found, "correlation": step.pairs}

    def take_losses(self) -> Tensor | None:
        """The mean losses of the objectives in the pieces since the last call, times their rows `(T,)`."""
        taken, self._sums = self._sums, None
        return taken

    def steps(self, epoch: int) -> Sequence[ImpressionStep]:
        """The batches of an epoch, every training row once."""
        rng = np.random.default_rng((self._settings.seed, 41, epoch))
        size = self._settings.rows
        if self._groups is not None:
            batches = group_batches(self._train, self._groups, batch=size, rng=rng)
        elif self.data.vectors is not None:
            batches = self.data.vectors.orders(self._train, batch=size, rng=rng)
        else:
            order = rng.permutation(self._train)
            batches = [np.sort(order[at : at + size]) for at in range(0, len(order), size)]
        return [self._step(rows, draw=(self._settings.seed, 43, epoch, at)) for at, rows in enumerate(batches)]

    def _step(self, rows: Ints, *, draw: tuple[int, ...] = ()) -> ImpressionStep:
        weighed = [self._weighed(one, found, rows) for one, found in zip(self._objectives, self._wanted, strict=True)]
        # with weight_by a batch's own sum would make batches of long times count less, and odds too small
        sums = [
            weight if one.weight_by is None else count * mean
            for one, mean, (count, weight) in zip(self._objectives, self._mean_weights, weighed, strict=True)
        ]
        return ImpressionStep(
            rows,
            tuple(count for count, _ in weighed),
            tuple(sums),
            pairs=0 if self._neighbours is None else self._neighbours.count(rows),
            draw=draw,
        )

    def _mean_weight(self, found: Wanted) -> float:
        """The mean weight of the training rows that count."""
        weights = found.weight[self._train]
        return float(weights.sum(dtype=np.float64) / np.count_nonzero(weights))

    def _weighed(self, one: Objective, found: Wanted, rows: Ints) -> tuple[int, float]:
        """How many of `rows` count for an objective, and what its sum over them is divided by."""
        label, weight = found.label[rows], found.weight[rows]
        if one.group is None or self._groups is None:
            return int(np.count_nonzero(weight)), float(weight.sum())
        groups = self._groups[rows]
        count = int(np.count_nonzero(two_classes(label, weight, groups)))
        return count, denominator(one.loss, label, weight, groups)

    def num_targets(self, step: ImpressionStep) -> int:
        """The rows of a step."""
        return len(step.rows)

    def weight(self, step: ImpressionStep) -> float:
        """1: what the pieces of a step come to is divided already, by what each objective weighs in the step."""
        return 1.0

    def pieces(self, step: ImpressionStep, *, part: int, parts: int) -> Sequence[ImpressionPiece]:
        """What a process computes of a step: at most as many rows as the histories that are encoded for them allow."""
        if self._groups is None:
            own = np.array_split(step.rows, parts)[part]  # rows of one window stand together
        else:
            own = group_part(step.rows, self._groups, part=part, parts=parts)
        if not len(own):
            return []
        vectors, model = self.data.vectors, self.data.model
        limit = None
        if vectors is not None and model is not None and not vectors.stand:
            limit = micro_batch(model, self._settings, encoder=model.base_encoder)
        if limit is None or vectors is None:
            some = [own]
        elif self._groups is None:
            some = vectors.split(own, positions=limit)
        else:
            some = group_runs(own, self._groups, vectors.lengths(own), limit=limit)
        return [ImpressionPiece(rows, step) for rows in some]

    def loss(self, piece: ImpressionPiece, device: torch.device) -> tuple[Tensor, float]:
        """What a piece adds to the loss of its step, and 1."""
        total, losses = self.losses(piece, device)
        for loss in losses:
            total = total + loss
        return total, 1.0

    def losses(self, piece: ImpressionPiece, device: torch.device) -> tuple[Tensor, list[Tensor]]:
        """The same apart: penalties and correlation, and the loss of each objective times its weight, all `()`."""
        outputs = self.data.network(self.data.batch(piece.rows, device))
        step = piece.step
        penalty = self.data.network.penalty() * (len(piece.rows) / len(step.rows))
        found, sums = [], []
        for number, (one, right) in enumerate(zip(self._objectives, self._wanted, strict=True)):
            if not step.counts[number]:
                found.append(penalty.detach() * 0)
                sums.append(found[-1])
                continue
            groups = None if self._groups is None else self._groups[piece.rows]
            told = Wanted(right.label[piece.rows], right.weight[piece.rows])
            summed = summed_loss(one, outputs[one.of], told, groups=groups)
            mean = summed / (step.weights[number] * self._units[number])
            found.append(one.weight * mean)
            sums.append(mean.detach() * step.counts[number])
        if self._correlation is not None:
            assert self._neighbours is not None
            near = self._neighbours.of(step.rows, draw=step.draw)  # drawn for the step as a whole
            mean = correlation_sum(self.data, near, piece.rows, device=device) / max(step.pairs, 1)
            penalty = penalty + self._correlation.weight * mean
            sums.append(mean.detach() * step.pairs)
        now = torch.stack(sums)
        self._sums = now if self._sums is None else self._sums + now
        return penalty, found

    def make_balancer(self, tensors: int) -> Balancer:
        """The recipe's, of objectives that share so many tensors. Raises SettingsError for what does not fit."""
        return objectives_balanced(self._objectives, balancer=self.balancer, options=self.balancing, tensors=tensors)

    def probe(self, device: torch.device) -> Sequence[Tensor]:
        """For each objective, a mix `()` of what is predicted for some training rows."""
        rows = np.unique(self._train[np.linspace(0, len(self._train) - 1, PROBE).astype(np.int64)])
        outputs = self.data.network(self.data.batch(rows, device))
        mix = torch.linspace(0.5, 1.5, len(rows), device=device)
        found = []
        for one in self._objectives:
            output = outputs[one.of]
            found.append(((output.logit if isinstance(output, LogProbability) else output) * mix).sum())
        return found

    def validate(self) -> dict[str, float]:
        """The watched figure, and AUC and log loss of each measure, on the validation rows."""
        device = next(self.model.parameters()).device
        predicted = self.data.predict(self._validation, device)
        found: dict[str, float] = {}
        watched: list[tuple[float, float]] = []
        for one, right in zip(self._measures, self._checked, strict=True):
            counts = right.weight[self._validation] > 0
            label, prediction = right.label[self._validation][counts], predicted[one.of][counts]
            if one.of in self.data.network.odds and one.weight_by is None:
                prediction = prediction / (1 + prediction)
            weight = right.weight[self._validation][counts]
            if one.of in self._scores:
                figures = {"auc": float(auc(label, prediction, weights=weight))}
                watched.append((figures["auc"], information(label, weights=weight)))
            elif one.of in self.data.network.values or one.weight_by is not None:
                figures = {"rmse": float(rmse(label, prediction, weights=weight))}
                watched.append((explained_variance(label, prediction, weights=weight), float(weight.sum()) / 4))
            else:
                figures = {
                    "auc": float(auc(label, prediction, weights=weight)),
                    "log_loss": float(log_loss(label, prediction, weights=weight)),
                }
                value = figures["auc"] if self.metric == "auc" else -figures["log_loss"]
                watched.append((value, information(label, weights=weight)))
            found |= {f"{one.of}/{name}": value for name, value in figures.items() if np.isfinite(value)}
        defined = [(value, told) for value, told in watched if np.isfinite(value) and told > 0]
        values, told = zip(*defined, strict=True) if defined else ((), ())
        mean = float(np.average(values, weights=told)) if defined else float("nan")
        return {self.metric: mean, **found}
