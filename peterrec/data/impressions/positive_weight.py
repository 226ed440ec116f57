"""What rows with label 1 weigh, such as the time that was watched after a click."""

import numpy as np
from numpy.typing import NDArray

from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import DataError

Floats = NDArray[np.float32]


def positive_weights(impressions: Impressions, name: str, *, label: Floats) -> Floats:
    """The label or numeric field `name` where `label` `(N,)` is 1, 1 where it is not: `(N,)`; NaN where it is missing.

    Raises DataError where the data have none of that name, or a row with label 1 has less than 0.
    """
    if name in impressions.labels:
        given = np.asarray(impressions.labels[name], dtype=np.float32)
    elif name in impressions.schema.of_kind("numeric"):
        given = np.asarray(impressions.numeric_field(name), dtype=np.float32)
    else:
        raise DataError(
            f"{impressions.folder}: weight_by names {name!r}, neither a label nor a numeric field. Prepare the "
            f"impressions with --label {name} (empty where there is no such time), or name another one."
        )
    positive = label == 1
    if (bad := positive & (given < 0)).any():
        row = int(bad.argmax())
        raise DataError(
            f"{impressions.folder}: {name} is {given[row]:g} in row {row + 1:,}, where the label that it weighs is 1 "
            f"({int(bad.sum()):,} such rows); a weight is 0 or more."
        )
    weights = np.where(positive, given, 1)
    return np.where(np.isfinite(weights), weights, np.nan).astype(np.float32)


def weighed_label(impressions: Impressions, name: str, *, label: Floats) -> Floats:
    """What `positive_weights` says where the label is 1, and 0 where it is 0: what was watched of each row `(N,)`."""
    return np.where(
        label == 0, 0, np.where(label == 1, positive_weights(impressions, name, label=label), np.nan)
    ).astype(np.float32)
