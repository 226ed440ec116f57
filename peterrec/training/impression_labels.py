"""The labels that objectives and measures ask for, and what the rows weigh for each."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from peterrec.data.impressions.impressions import Impressions
from peterrec.data.impressions.positive_weight import positive_weights, weighed_label
from peterrec.data.impressions.space import parse_space
from peterrec.errors import DataError
from peterrec.objective_recipe import Measure, Objective

Floats = NDArray[np.float32]


class Wanted(NamedTuple):
    """The label of some rows `(N,)`, zero where they do not count, and what each weighs `(N,)`: 0 where it does not."""

    label: Floats
    weight: Floats


def wanted(impressions: Impressions, label: str, space: str | None, *, weight: Floats) -> Wanted:
    """The label `label` of all rows, and what those in `space` weigh.

    Raises DataError where the data have no such label or numeric field.
    """
    labels = impressions.labels
    if label in labels:
        values = np.asarray(labels[label], dtype=np.float32)
    elif label in impressions.schema.of_kind("numeric"):
        values = np.asarray(impressions.numeric_field(label), dtype=np.float32)
    else:
        raise DataError(
            f"{impressions.folder}: there is no label {label!r}; there are {', '.join(labels)}. Prepare the "
            f"impressions with --label {label}, or name another label in the task."
        )
    counts = np.isfinite(values)
    if space is not None:
        parsed = parse_space(space)
        if missing := [name for name in parsed.names if name not in labels]:
            raise DataError(f"{impressions.folder}: space {space!r} needs the label {missing[0]}, which is not there.")
        counts &= np.asarray(parsed.rows(labels), dtype=bool)
    return Wanted(np.where(counts, values, 0).astype(np.float32), np.where(counts, weight, 0).astype(np.float32))


def learned(impressions: Impressions, one: Objective, *, weight: Floats) -> Wanted:
    """What an objective learns; with `weight_by` rows of label 1 weigh as much more (Covington et al., 2016)."""
    found = wanted(impressions, one.label, one.space, weight=weight)
    if one.weight_by is None:
        return found
    more = positive_weights(impressions, one.weight_by, label=found.label)
    return Wanted(found.label, np.where(np.isnan(more), 0, found.weight * more).astype(np.float32))


def compared(impressions: Impressions, one: Measure, *, weight: Floats) -> Wanted:
    """What a measure is held against; with `weight_by` the weight of label 1, and 0 of label 0."""
    found = wanted(impressions, one.label, one.space, weight=weight)
    if one.weight_by is None:
        return found
    label = weighed_label(impressions, one.weight_by, label=found.label)
    known = np.isfinite(label)
    return Wanted(np.where(known, label, 0).astype(np.float32), np.where(known, found.weight, 0).astype(np.float32))


def objective_names(objectives: Sequence[Objective]) -> list[str]:
    """A name for each objective: of what learns, with the label where a prediction learns several."""
    learned = [one.of for one in objectives]
    return [one.of if learned.count(one.of) == 1 else f"{one.of}:{one.label}" for one in objectives]
