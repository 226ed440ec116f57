"""What a task on impressions measures: the name of each figure, its label, and the rows on which it counts."""

import numpy as np
from numpy.typing import NDArray

from peterrec.data.impressions.impressions import Impressions
from peterrec.data.impressions.positive_weight import weighed_label
from peterrec.data.impressions.space import parse_space
from peterrec.impression_design import Design
from peterrec.objective_recipe import Measure


def measures_of(plan: Design) -> dict[str, Measure]:
    """What is measured, by its name in the results.

    That is the output's name; of an output that is measured several times, from the second on with the label, and
    where that has been too, with the rows.
    """
    found: dict[str, Measure] = {}
    for measure in plan.measures:
        rows = "on all rows" if measure.space is None else f"where {measure.space}"
        names = (measure.of, f"{measure.of}:{measure.label}", f"{measure.of}:{measure.label} {rows}")
        found[next((name for name in names if name not in found), names[-1])] = measure
    return found


def label_of(impressions: Impressions, measure: Measure) -> NDArray[np.float32]:
    """What a measure is held against `(N,)`: a label, or a numeric field, or what rows with label 1 weigh.

    Raises SettingsError where there is none.
    """
    if measure.label not in impressions.labels:
        return impressions.numeric_field(measure.label)
    label = impressions.labels[measure.label]
    return label if measure.weight_by is None else weighed_label(impressions, measure.weight_by, label=label)


def asked_of(measure: Measure) -> str:
    """What `label_of` is, in words."""
    return measure.label if measure.weight_by is None else f"{measure.weight_by} (0 without {measure.label})"


def counted_rows(impressions: Impressions, measure: Measure) -> NDArray[np.bool_]:
    """Whether each row `(N,)` is in the space of a measure."""
    if measure.space is None:
        return np.ones(len(impressions), dtype=bool)
    return np.asarray(parse_space(measure.space).rows(impressions.labels), dtype=bool)
