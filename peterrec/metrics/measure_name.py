"""The names of figures about impressions: "ctr/auc", and "ctr/auc/domain=young" for the rows of one domain."""

import re
from dataclasses import dataclass

# In the order in which reports show them; docs/metrics_ctr.md defines each.
PROBABILITY_MEASURES = ("auc", "log_loss", "ne", "pcoc", "gauc", "gauc_mean", "gauc_positives")
VALUE_MEASURES = ("rmse",)
OF_USERS = ("gauc", "gauc_mean", "gauc_positives")  # measured where the rows have users
SCORE_MEASURES = ("auc", *OF_USERS)  # of the order alone

MEAN = "mean"  # stands where an output does: the mean over all that are probabilities
_DOMAIN = "/domain="


@dataclass(frozen=True)
class MeasureName:
    """Which output was measured how, on the rows of which domain (None: on all).

    >>> str(MeasureName("ctr", "auc", "young"))
    'ctr/auc/domain=young'
    """

    output: str
    measure: str
    domain: str | None = None

    def __str__(self) -> str:
        return f"{self.output}/{self.measure}" + ("" if self.domain is None else f"{_DOMAIN}{self.domain}")

    @classmethod
    def parse(cls, name: str) -> "MeasureName | None":
        """The parts of `name`; None where it is no such name (domains and outputs may hold strokes themselves)."""
        head, found, domain = name.partition(_DOMAIN)
        output, stroke, measure = head.rpartition("/")
        known = measure in PROBABILITY_MEASURES + VALUE_MEASURES or ndcg_depth(measure) is not None
        if not stroke or not output or not known:
            return None
        return cls(output, measure, domain if found else None)


def ndcg_depth(measure: str) -> int | None:
    """The k of "ndcg@k", of lists of rows; None for other measures."""
    found = re.fullmatch(r"ndcg@([1-9]\d*)", measure)
    return None if found is None else int(found[1])


def measure_of(name: str) -> str:
    """What is measured, without output and domain: "auc" of "ctr/auc/domain=young"; other names as they are."""
    known = MeasureName.parse(name)
    return name if known is None else known.measure
