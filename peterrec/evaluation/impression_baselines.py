"""What the labels of impressions come to without a network: logistic regression on the fields, ratings, base rates."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.base_rate import BaseRate
from peterrec.baselines.field_regression import FieldRegression
from peterrec.data.attribute import Split
from peterrec.data.impressions.coding import FieldCoding
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import DataError
from peterrec.evaluation.impression_arena import ImpressionArena
from peterrec.evaluation.impression_measures import counted_rows, label_of, measures_of
from peterrec.evaluation.impression_plan import BASELINES, RATE, RATE_OF_DOMAIN, RATING_MODELS, REGRESSION
from peterrec.evaluation.rating_baselines import rating_models, rating_predictions
from peterrec.impression_design import Design
from peterrec.objective_recipe import Measure

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BaselineFit:
    """What a baseline predicts for the test rows `(n,)` of each seed, by measure, and its seconds a split."""

    predicted: dict[int, dict[str, Floats]]
    seconds: float


def baselines(arena: ImpressionArena, plan: Design) -> dict[str, BaselineFit]:
    """Each baseline on each measure of `plan`, learned on the training rows of the measure's space.

    Base rates of values are their means; of these there is no logistic regression, but the models of ratings, if rows
    have users and items. Seeds that share a split share what was learned on it.
    """
    impressions = arena.impressions
    known = {REGRESSION, *rating_models(impressions, plan), RATE}
    names = [name for name in BASELINES if name in known or (name == RATE_OF_DOMAIN and impressions.schema.domains)]
    found: dict[str, dict[int, dict[str, Floats]]] = {name: {} for name in names}
    seconds = dict.fromkeys(names, 0.0)
    same: dict[tuple[bytes, ...], int] = {}
    for seed, split in arena.splits.items():
        earlier = same.setdefault((split.train.tobytes(), split.validation.tobytes(), split.test.tobytes()), seed)
        if earlier != seed:
            for each in found.values():
                each[seed] = each[earlier]
            continue
        coding = FieldCoding.fit(impressions, split.train, fields=plan.fields, minimum=plan.task.features.minimum)
        for name, each in found.items():
            started = time.perf_counter()
            each[seed] = {
                of: predicted
                for of, measure in measures_of(plan).items()
                if (
                    predicted := _predicted(
                        name, impressions, measure, plan=plan, split=split, coding=coding, seed=seed
                    )
                )
                is not None
            }
            seconds[name] += time.perf_counter() - started
    return {name: BaselineFit(each, seconds[name] / len(same)) for name, each in found.items()}


def _predicted(
    name: str,
    impressions: Impressions,
    measure: Measure,
    *,
    plan: Design,
    split: Split,
    coding: FieldCoding,
    seed: int,
) -> Floats | None:
    """What the baseline `name` predicts of a measure for the test rows `(n,)`; None where it cannot."""
    counts = counted_rows(impressions, measure)
    train, validation = (rows[counts[rows]] for rows in (split.train, split.validation))
    weighted = plan.task.row_weights
    if name in RATING_MODELS:
        if measure.of not in plan.values:
            return None
        return rating_predictions(name, impressions, measure, split=split, weighted=weighted, seed=seed)
    if plan.is_value(measure):
        if name == REGRESSION:
            return None
        return _means(impressions, measure, train, split.test, per_domain=name == RATE_OF_DOMAIN, weighted=weighted)
    if name == REGRESSION:
        model: FieldRegression | BaseRate = FieldRegression.fit(
            impressions,
            coding=coding,
            rows=train,
            validation=validation,
            label=measure.label,
            row_weights=weighted,
        )
    else:
        model = BaseRate.fit(
            impressions,
            rows=train,
            label=measure.label,
            per_domain=name == RATE_OF_DOMAIN,
            row_weights=weighted,
        )
    return model.predict(impressions, split.test)


def _means(
    impressions: Impressions, measure: Measure, train: Ints, test: Ints, *, per_domain: bool, weighted: bool
) -> Floats:
    """The mean of a value over the `train` rows that have it, or over those of a test row's domain, `(n,)`."""
    label = label_of(impressions, measure)
    train = train[np.isfinite(label[train])]
    values = label[train].astype(np.float64)
    weights = np.ones(len(train))
    if weighted and impressions.weight is not None:
        weights = np.asarray(impressions.weight[train], dtype=np.float64)
    if not weights.any():
        raise DataError(
            f"{impressions.folder}: no training row has the label {measure.label!r} and a weight above 0 where "
            f"{measure.of} is measured; prepare more rows, or leave the measure out of the task."
        )
    found = np.full(len(test), np.average(values, weights=weights))
    for number in range(len(impressions.schema.domains) if per_domain else 0):
        own = np.asarray(impressions.domain[train]) == number
        if weights[own].any():
            found[np.asarray(impressions.domain[test]) == number] = np.average(values[own], weights=weights[own])
    return found
