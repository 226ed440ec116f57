"""Predictions on test impressions, measured by output and by domain, under the weights of a bootstrap."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.errors import DataError, DivergedError, SettingsError
from peterrec.metrics.calibration import calibration_bins
from peterrec.metrics.click_rates import entropy, log_losses, squared_errors
from peterrec.metrics.intervals import REPLICATES
from peterrec.metrics.measure_name import (
    MEAN,
    OF_USERS,
    PROBABILITY_MEASURES,
    SCORE_MEASURES,
    VALUE_MEASURES,
    MeasureName,
)
from peterrec.metrics.ranked_pairs import RankedPairs
from peterrec.metrics.ratio import Floats, ratio
from peterrec.metrics.user_auc import UserAucs, Weighting, user_aucs

FEW_REPLICATES = 300  # a bound then has a standard error of 4 % of the interval's width; of 1,000, 2 %
MANY_ROWS = 100_000  # from here a thousand would take minutes for each model of a comparison
MEANS = ("auc", "log_loss")  # of which the mean over outputs is measured too
ROUNDING = 1e-5  # by which a probability in float32 may be beyond 0 or 1
WEIGHTINGS: dict[str, Weighting] = {"gauc": "impressions", "gauc_mean": "users", "gauc_positives": "positives"}


@dataclass(frozen=True)
class MeasuredOutput:
    """One output on N rows: label (N,), prediction (N,), and which rows count (N,); a NaN label never counts."""

    label: ArrayLike
    prediction: ArrayLike
    rows: ArrayLike
    kind: Literal["probability", "value", "score"] = "probability"


class ImpressionRows:
    """The N test rows of one seed, for `metrics.intervals`; `names` as `MeasureName` writes them.

    `users` (N,) are drawn by the bootstrap; without them each row is, by its number in the data (`row_numbers` (N,),
    so that seeds which test other rows are drawn together), and there is no GAUC. `domains` (N,) are places in
    `domain_names`; rows of none (-1) count among all rows only. `weights` (N,) are those of the rows.

    Raises DataError on no rows or a label of a probability that is not 0 or 1, DivergedError on predictions that are
    NaN, SettingsError on an output that is called "mean".
    """

    def __init__(
        self,
        users: ArrayLike | None,
        domains: ArrayLike,
        domain_names: Sequence[str],
        outputs: Mapping[str, MeasuredOutput],
        weights: ArrayLike | None = None,
        *,
        row_numbers: ArrayLike | None = None,
    ) -> None:
        number = np.asarray(domains)
        if not len(number):
            raise DataError("There are no impressions to measure: the test part is empty. Use a larger test share.")
        drawn = users if users is not None else np.arange(len(number)) if row_numbers is None else row_numbers
        self.users: ArrayLike = np.asarray(drawn)
        assert self.users.shape == number.shape
        # where each cluster's weight stands among those of the rows, and whose each row is
        _, self._first, clusters = np.unique(_ids(self.users), return_index=True, return_inverse=True)
        self._rows_of = np.bincount(clusters)
        own = None if weights is None else np.asarray(weights, dtype=np.float64)
        assert own is None or own.shape == number.shape
        self.calibration: dict[str, list[dict[str, float]]] = {}
        self._parts: dict[str, tuple[_Part, str]] = {}
        for output, measured in outputs.items():
            if output == MEAN:
                raise SettingsError(f"{MEAN!r} is the mean over all heads in the results: give the head another name.")
            counted = _counted(output, measured)
            if measured.kind == "probability":
                columns = [np.asarray(each)[counted] for each in (measured.label, measured.prediction)]
                self.calibration[output] = calibration_bins(*columns, weights=None if own is None else own[counted])
            for domain in (None, *range(len(domain_names))):
                rows = counted if domain is None else counted[number[counted] == domain]
                part = _Part(measured, rows, clusters, own, of_users=users is not None)
                named = None if domain is None else domain_names[domain]
                for measure in part.measures:
                    self._parts[str(MeasureName(output, measure, named))] = part, measure
        told = [output for output, measured in outputs.items() if measured.kind == "probability"]
        self._means: dict[str, list[str]] = {
            str(MeasureName(MEAN, measure)): [str(MeasureName(output, measure)) for output in told]
            for measure in MEANS
            if len(told) > 1
        }
        self.names: Sequence[str] = (*self._means, *self._parts)

    def __len__(self) -> int:
        return len(np.asarray(self.users))

    def measure(self, weights: Floats, names: Sequence[str]) -> dict[str, Floats]:
        """The named measures in each replicate, (R,) each; NaN where the replicate leaves one undefined.

        `weights` (R, N) are those of a draw of users: equal for all rows of a user.
        """
        counts = np.take(weights, self._first, axis=-1)
        assert np.allclose(counts @ self._rows_of, weights.sum(-1)), "a weight a user, not a row"
        measured: dict[str, Floats] = {}
        for part, wanted in self._wanted(part for name in names for part in self._means.get(name, (name,))):
            found = part.measure(counts, set(wanted.values()))
            measured |= {name: found[measure] for name, measure in wanted.items()}
        for name in names:
            if name in self._means:
                measured[name] = np.mean([measured[part] for part in self._means[name]], axis=0)
        return {name: measured[name] for name in names}

    def main(self, measure: str) -> str:
        """The name of `measure` for the whole model: the mean over its probabilities, or that of the only one; the
        first figure where no output has it."""
        alike = (str(MeasureName(MEAN, measure)), *(n for n in self.names if n.endswith(f"/{measure}")))
        return next((name for name in alike if name in self.names), self.names[0])

    def _wanted(self, names: Iterable[str]) -> Iterator[tuple["_Part", dict[str, str]]]:
        """Each part with those of `names` that it measures."""
        grouped: dict[int, tuple[_Part, dict[str, str]]] = {}
        for name in names:
            part, measure = self._parts[name]
            grouped.setdefault(id(part), (part, {}))[1][name] = measure
        yield from grouped.values()


class _Part:
    """The counted rows of one output, in one domain or all."""

    def __init__(
        self,
        measured: MeasuredOutput,
        rows: NDArray[np.int64],
        clusters: NDArray[np.int64],
        weights: Floats | None,
        *,
        of_users: bool,
    ) -> None:
        self.label: Floats = np.asarray(measured.label, dtype=np.float64)[rows]
        self.prediction: Floats = np.asarray(measured.prediction, dtype=np.float64)[rows]
        self.weights: Floats | None = None if weights is None else weights[rows]
        self.clusters: NDArray[np.int64] = clusters[rows]
        self.probability: bool = measured.kind == "probability"
        of_kind = {"probability": PROBABILITY_MEASURES, "value": VALUE_MEASURES, "score": SCORE_MEASURES}
        measures = of_kind[measured.kind]
        self.measures: list[str] = [name for name in measures if of_users or name not in OF_USERS]

    def measure(self, counts: Floats, measures: set[str]) -> dict[str, Floats]:
        """The measures, (R,) each, from how often each cluster counts (R, U)."""
        found: dict[str, Floats] = {}
        if "auc" in measures:
            found["auc"] = self._pairs.auc(counts)
        if of_users := [name for name in OF_USERS if name in measures]:
            place, aucs = self._user_aucs
            own = np.take(counts, place, axis=-1)
            found |= {name: aucs.mean(WEIGHTINGS[name], own) for name in of_users}
        if len(found) < len(measures):
            found |= self._of_sums(counts)
        return found

    def _of_sums(self, counts: Floats) -> dict[str, Floats]:
        place, sums = self._sums
        total, error, positive, told = np.moveaxis(np.take(counts, place, axis=-1) @ sums, -1, 0)
        mean = ratio(error, total)
        if not self.probability:
            return {"rmse": np.sqrt(mean)}
        rate = ratio(positive, total)
        return {"log_loss": mean, "ne": ratio(mean, entropy(rate)), "pcoc": ratio(told, positive)}

    @cached_property
    def _pairs(self) -> RankedPairs:
        return RankedPairs(self.label, self.prediction, clusters=self.clusters, row_weights=self.weights)

    @cached_property
    def _user_aucs(self) -> tuple[NDArray[np.int64], UserAucs]:
        aucs = user_aucs(self.label, self.prediction, self.clusters, weights=self.weights)
        return aucs.users, aucs

    @cached_property
    def _sums(self) -> tuple[NDArray[np.int64], Floats]:
        """The clusters of the rows (P,), and the sums of weights, errors, labels and predictions over each (P, 4)."""
        place, own = np.unique(self.clusters, return_inverse=True)
        errors = (log_losses if self.probability else squared_errors)(self.label, self.prediction)
        weights = np.ones(len(own)) if self.weights is None else self.weights
        columns = (weights, weights * errors, weights * self.label, weights * self.prediction)
        sums = [np.bincount(own, column, minlength=len(place)).astype(np.float64) for column in columns]
        return place, np.stack(sums, axis=-1)


def replicates_of(rows: Sequence[Sized]) -> int:
    """How many replicates the intervals take: fewer where there are very many rows."""
    return FEW_REPLICATES if max(map(len, rows)) >= MANY_ROWS else REPLICATES


def bootstrap_facts(*, users: bool, replicates: int) -> dict[str, Any]:
    """What `metrics["bootstrap"]` says of the intervals: what was drawn, and how often."""
    return {"over": "users" if users else "rows", "replicates": replicates}


def _counted(name: str, measured: MeasuredOutput) -> NDArray[np.int64]:
    """The rows that count and have a label, checked."""
    label, prediction = np.asarray(measured.label), np.asarray(measured.prediction)
    counted = np.flatnonzero(np.asarray(measured.rows, dtype=bool) & ~np.isnan(label))
    if len(broken := counted[np.isnan(prediction[counted])]):
        raise DivergedError(
            f"The predictions of {name} for test row {broken[0]} are not numbers (NaN): the model has diverged. Train "
            "again with a lower learning rate."
        )
    if measured.kind != "value" and len(wrong := counted[~np.isin(label[counted], (0, 1))]):
        raise DataError(
            f"The label of {name} in test row {wrong[0]} is {label[wrong[0]]:g}; a {measured.kind} is measured "
            'against labels 0 and 1. Measure it against another label, or give the head output = "value".'
        )
    if measured.kind == "probability":
        beyond = np.abs(prediction[counted] - 0.5) > 0.5 + ROUNDING
        assert not beyond.any(), f"{name} predicts no probabilities"
    return counted


def _ids(users: ArrayLike) -> NDArray:
    ids = np.asarray(users)
    return ids.astype(str) if ids.dtype == object else ids
