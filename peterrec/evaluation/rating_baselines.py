"""What users and items alone say of a value that a task on impressions measures, such as a rating."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.ratings.models import MODELS
from peterrec.baselines.ratings.ratings import Ratings
from peterrec.data.attribute import Split
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import DataError
from peterrec.evaluation.impression_measures import counted_rows, label_of, measures_of
from peterrec.evaluation.impression_plan import RATING_MODELS
from peterrec.impression_design import Design
from peterrec.objective_recipe import Measure

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def rating_models(impressions: Impressions, plan: Design) -> Collection[str]:
    """The models of ratings that have something to learn: all, where rows have users and items, and a value."""
    there = impressions.schema.user is not None and impressions.schema.item is not None
    return RATING_MODELS if there and any(one.of in plan.values for one in measures_of(plan).values()) else ()


def rating_predictions(
    name: str, impressions: Impressions, measure: Measure, *, split: Split, weighted: bool, seed: int
) -> Floats:
    """What the model `name` predicts of a value for the test rows `(n,)`.

    It learns from the training rows that count for the measure; a model that is trained by gradient stops by the
    validation rows. N(u) are the user's training rows, so that nothing is read ahead. Raises DataError where no
    training row has a user, an item and the value.
    """
    parts = []
    for rows in (split.train, split.validation):
        weight = np.ones(len(rows))
        if weighted and impressions.weight is not None:
            weight = np.asarray(impressions.weight[rows], dtype=np.float64)
        value = label_of(impressions, measure)[rows].astype(np.float64)
        counts = counted_rows(impressions, measure)[rows] & np.isfinite(value) & (weight > 0)
        counts &= (impressions.user[rows] >= 0) & (impressions.item[rows] >= 0)
        parts.append((rows[counts], value[counts], weight[counts]))
    train, held = parts
    if not len(train[0]):
        raise DataError(
            f"{impressions.folder}: no training row has the label {measure.label!r}, a user and an item where "
            f"{measure.of} is measured; prepare more rows, or leave the measure out of the task."
        )

    def ratings(rows: Ints, value: Floats, weight: Floats) -> Ratings:
        users, items = impressions.user_ids, impressions.item_ids
        return Ratings(impressions.user[rows], impressions.item[rows], value, len(users), len(items), weights=weight)

    fitted = MODELS[name].fit(ratings(*train), validation=ratings(*held) if len(held[0]) else None, seed=seed)
    return fitted.predict(impressions.user[split.test], impressions.item[split.test])
