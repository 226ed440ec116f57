"""One row of a table of results on impressions: its test rows as measured, and with which other rows that compares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peterrec.data.impressions.impressions import Impressions
from peterrec.evaluation.impression_arena import ImpressionArena
from peterrec.evaluation.impression_measures import asked_of, counted_rows, label_of, measures_of
from peterrec.impression_design import Design
from peterrec.metrics.impression_rows import ImpressionRows, MeasuredOutput, replicates_of
from peterrec.metrics.intervals import AllDraws, all_draws
from peterrec.metrics.measure_name import MEAN, MeasureName

Floats = NDArray[np.float64]
Predicted = Mapping[str, Floats]
Asked = tuple[str, str | None, bool]  # label, space, whether it is no probability


@dataclass(frozen=True)
class Entrant:
    """A model, baseline or ceiling: the test rows of each seed, what each measure asks, and what else is told of it."""

    name: str
    role: str
    rows: list[ImpressionRows]
    asked: dict[str, Asked]
    facts: dict[str, Any] = field(default_factory=dict)

    def question(self, metric: str) -> tuple[tuple[str, Asked], ...]:
        """What a figure of that name is measured on: two entrants are compared where this is the same."""
        known = MeasureName.parse(metric)
        assert known is not None
        if known.output == MEAN:
            return tuple(sorted((name, asked) for name, asked in self.asked.items() if not asked[2]))
        return tuple((name, asked) for name, asked in self.asked.items() if name == known.output)

    def has(self, metric: str) -> bool:
        """Whether it has a figure of that name."""
        return all(metric in one.names for one in self.rows)

    @cached_property
    def draws(self) -> AllDraws:
        """All figures in the replicates, which is one pass over them however many are asked for."""
        return all_draws(self.rows, replicates=replicates_of(self.rows))

    def result(self, *, without: Sequence[str] = ()) -> dict[str, Any]:
        """Its row of results, `without` the figures of these names."""
        found = self.draws.intervals()
        metrics = {name: figure for name, figure in found.items() if name not in without}
        return {"name": self.name, "role": self.role, "metrics": metrics, **self.facts}


def entrant(
    name: str,
    role: str,
    arena: ImpressionArena,
    plan: Design,
    predicted: Mapping[int, Predicted],
    *,
    facts: Mapping[str, Any] | None = None,
) -> Entrant:
    """An entrant by what it `predicted` for the test rows of each seed, by measure; it is measured on those alone."""
    measures = measures_of(plan)
    first = next(iter(predicted.values()))
    return Entrant(
        name,
        role,
        [
            measured(arena.impressions, arena.splits[seed].test, plan, by_measure)
            for seed, by_measure in predicted.items()
        ],
        {
            of: (asked_of(one), one.space, plan.is_value(one) or one.of in plan.scores)
            for of, one in measures.items()
            if of in first
        },
        dict(facts or {}),
    )


def by_measure(plan: Design, outputs: Predicted) -> dict[str, Floats]:
    """What a network predicts, by output, as each measure of `plan` takes it: odds against a label as a probability."""
    return {
        name: outputs[measure.of] / (1 + outputs[measure.of])
        if measure.of in plan.odds and not plan.is_value(measure)
        else outputs[measure.of]
        for name, measure in measures_of(plan).items()
    }


def measured(impressions: Impressions, rows: NDArray[np.int64], plan: Design, predicted: Predicted) -> ImpressionRows:
    """The `rows` `(n,)` with what was predicted for each `(n,)`, by measure; measures without that are left out."""
    outputs = {}
    for name, measure in measures_of(plan).items():
        if name in predicted:
            kind = "value" if plan.is_value(measure) else "score" if measure.of in plan.scores else "probability"
            counts = counted_rows(impressions, measure)[rows]
            outputs[name] = MeasuredOutput(label_of(impressions, measure)[rows], predicted[name], counts, kind)
    weight = impressions.weight if plan.task.row_weights else None
    return ImpressionRows(
        impressions.user[rows] if impressions.schema.users else None,
        impressions.domain[rows],
        impressions.schema.domains,
        outputs,
        None if weight is None else weight[rows],
        row_numbers=rows,
    )
