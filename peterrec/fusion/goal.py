"""What a fused score shall be good at: a measure of its order against a label, and how much that counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peterrec.errors import SettingsError, did_you_mean
from peterrec.metrics.measure_name import OF_USERS, MeasureName, ndcg_depth

MEASURES = ("auc", *OF_USERS)
WEIGHTED = "weighted_mean"  # the figure that several goals come to


@dataclass(frozen=True)
class Goal:
    """A measure (`auc`, a kind of GAUC, `ndcg@k`) of the score against a 0/1 label, and its weight."""

    label: str
    measure: str
    weight: float = 1.0

    def __str__(self) -> str:
        return str(MeasureName(self.label, self.measure))

    @classmethod
    def parse(cls, text: str) -> "Goal":
        """A goal from "click/gauc" or "conversion/ndcg@10=2". Raises SettingsError."""
        name, sign, number = text.partition("=")
        label, stroke, measure = name.strip().rpartition("/")
        if not stroke or not label:
            raise SettingsError(f"--metric {text}: a metric is LABEL/MEASURE[=WEIGHT], such as click/gauc=1.")
        if measure not in MEASURES and ndcg_depth(measure) is None:
            raise SettingsError(f"--metric {text}: {did_you_mean(measure, (*MEASURES, 'ndcg@10'))}")
        try:
            weight = float(number) if sign else 1.0
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight > 0):
            raise SettingsError(f"--metric {text}: the weight {number.strip()!r} is not a number above 0.")
        return cls(label, measure, weight)


def parse_goals(texts: Sequence[str]) -> list[Goal]:
    """Goals as `Goal.parse` reads them, each once. Raises SettingsError."""
    found = [Goal.parse(text) for text in texts]
    names = [str(goal) for goal in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SettingsError(f"--metric {twice[0]} stands there twice; give it one weight.")
    return found


def default_goals(labels: Sequence[str], *, users: bool) -> list[Goal]:
    """GAUC (AUC where there are no users) of `click` and `conversion`, else of the only label. Raises SettingsError."""
    known = [name for name in ("click", "conversion") if name in labels] or list(labels)
    if len(known) > 1 and "click" not in known:
        raise SettingsError(
            f"There are the labels {', '.join(labels)}: say what the score shall be good at, such as --metric "
            f"{known[0]}/auc, with weights if it is several."
        )
    return [Goal(name, "gauc" if users else "auc") for name in known]
