"""What a run's intervals were drawn from, in words."""

from peterrec.report import reading
from peterrec.report.reading import Metrics


def resampled(metrics: Metrics) -> str:
    """What the bootstrap drew: "test users", "test rows"; with the number of draws where the run says it."""
    facts = metrics.get("bootstrap")
    facts = facts if isinstance(facts, dict) else {}
    drawn = f"test {reading.plain(facts.get('over') or 'users')}"
    told = reading.finite(facts.get("replicates"))
    return drawn if told is None else f"{drawn}, {reading.count(told)} replicates"


def interval_note(metrics: Metrics) -> str:
    """The line below a table of figures and intervals."""
    return f"Value and 95 % interval (bootstrap over {resampled(metrics)})."
