"""Cold start in a target domain: every entrant on the same test events, with intervals and paired gains."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from peterrec.data.attribute import Split
from peterrec.data.cross_domain import PairedLogs
from peterrec.data.examples import choose_events
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.evaluation.cold_start_test import COVERAGE, LONG_TAIL, MAIN, NEGATIVES, ColdStartTest, Measured
from peterrec.evaluation.gains import gains_of, reference_of
from peterrec.metrics.catalogue_use import HEAD_SHARE
from peterrec.metrics.intervals import metric_intervals

Ints = NDArray[np.int64]
Predict = Literal["last", "first", "all"]
GAINS = (MAIN, "hr@10")


@dataclass(frozen=True)
class ColdStart:
    """A paired log and its splits by seed: which target events are learned from, validated on and tested.

    `predict` says which target events of a validation or test user are ranked; those with fewer than `fewest_source`
    source events before them are left out. With `mixed` the history holds the user's earlier target items too.
    """

    pairs: PairedLogs
    splits: Mapping[int, Split]
    predict: Predict = "last"
    mixed: bool = False
    fewest_source: int = 1

    def events(self, users: Ints, *, which: Predict | None = None) -> Ints:
        """The target events (n,) of `users` that are ranked, or `which` of them."""
        return choose_events(
            self.pairs, users, which=self.predict if which is None else which, fewest_source=self.fewest_source
        )

    def test(self, seed: int) -> ColdStartTest:
        """The test of a seed; raises DataError where it is empty."""
        split = self.splits[seed]
        return ColdStartTest.of(self.pairs, self.events(split.test), trained=split.train, mixed=self.mixed)

    def validation(self, seed: int) -> ColdStartTest:
        """The same of the validation users."""
        split = self.splits[seed]
        return ColdStartTest.of(self.pairs, self.events(split.validation), trained=split.train, mixed=self.mixed)


@dataclass(frozen=True)
class Entrant:
    """What a model, control or baseline came to on the test of each seed; `facts` stand in its row of results."""

    name: str
    role: str
    measured: Mapping[int, Measured]
    facts: Mapping[str, Any] = field(default_factory=dict)


def cold_start_results(
    arena: ColdStart, entrants: Sequence[Entrant], *, skipped: Collection[str] = (), watched: str = MAIN
) -> dict[str, Any]:
    """`protocol`, `metric`, `reference`, `results` and `gains` of the entrants, the first of which is the model.

    Gains in what early stopping `watched`, NDCG@10 and HR@10 are paired by user and seed: the first model over
    everything else, the other models over the baselines and over full fine-tuning. `skipped` are sentences on
    baselines that are not there.
    """
    assert entrants
    assert all(set(one.measured) == set(arena.splits) for one in entrants)
    rows = {one.name: [measured.rows() for measured in one.measured.values()] for one in entrants}
    assert len(rows) == len(entrants), "names differ"
    results = []
    for one in entrants:
        figures: dict[str, Any] = dict(metric_intervals(rows[one.name]))
        covered = [measured.coverage for measured in one.measured.values()]
        figures[COVERAGE] = {"value": float(np.mean(covered)), "per_seed": covered}
        results.append({"name": one.name, "role": one.role, "metrics": figures, **one.facts})
    models = [one.name for one in entrants if one.role == "model"]
    baselines = {one.name for one in entrants if one.role == "baseline"}
    return {
        "protocol": " ".join([protocol(arena, watched=watched), *skipped]),
        "metric": watched,
        "reference": reference_of(models),
        "results": results,
        "gains": gains_of(models, rows, baselines=baselines, metrics=dict.fromkeys((watched, *GAINS))),
    }


def protocol(arena: ColdStart, *, watched: str = MAIN) -> str:
    """In words: who is tested on what, from which history, and how the figures are made."""
    pairs, seeds = arena.pairs, list(arena.splits)
    split = arena.splits[seeds[0]]
    events = arena.events(split.test)
    tested = len(np.unique(pairs.owner[events]))
    which = {"last": "the last target event", "first": "the first target event", "all": "every target event"}
    least = f"at least {arena.fewest_source:,} source event" + ("s" if arena.fewest_source != 1 else "")
    one_log = pairs.summary.get("order") == "one log"
    return " ".join(
        [
            f"Cold start of {len(pairs):,} users who are in both domains, {len(seeds)} seed(s), each with its own "
            f"split by user: {len(split.train):,} training, {len(split.validation):,} validation and "
            f"{len(split.test):,} test users. Tested is {which[arena.predict]} of each test user, where {least} came "
            f"before it ({len(events):,} events of {tested:,} users; {len(split.test) - tested:,} users have none).",
            "It is predicted from the source and target events before it (a warm start); the target items in that "
            "history are no candidates, but for the target itself."
            if arena.mixed
            else "It is predicted from the source events before it alone: nothing that the user did in the target "
            "domain is read.",
            "What came before is told by the order of the one log, by time and then by position."
            if one_log
            else "A source event at the very time of a target event does not count as earlier.",
            _shared(pairs),
            f"The target is ranked among all {len(pairs.target_vocabulary) - FIRST_ITEM:,} items of the target "
            "catalogue; ties count by their expectation. Figures are averaged within a user, then over users; 95 % "
            "bootstrap intervals over test users (all seeds of a user together) and seeds, gains on the same draws.",
            f"{COVERAGE} is the share of the catalogue that is among the ten best of any test user; it depends on how "
            f"many these are and has no interval. {LONG_TAIL} is the share of the ten best that is outside the head, "
            f"the fewest items that hold {100 * HEAD_SHARE:g} % of the training users' target events.",
            f"The figure with {NEGATIVES} sampled negatives, as older papers report it, is the expectation over "
            "uniform draws from the same candidates; it is not comparable with full rankings.",
            f"Models and baselines learn from the training users only; early stopping looks at {watched} and the "
            f"baselines' settings at {MAIN} of the validation users, never at the test users. item_knn, user_knn and "
            "ridge learn from whole histories, item_knn_recent and ridge_recent from the last few events before each "
            "training event. Seconds are training or fitting time a seed, that of choosing the settings included.",
        ]
    )


def _shared(pairs: PairedLogs) -> str:
    """Whether a history may hold its target under the same id."""
    found = pc.call_function(
        "is_in", [pairs.target_vocabulary.items], pc.SetLookupOptions(value_set=pairs.source_vocabulary.items)
    )
    both = int(np.count_nonzero(found.to_numpy(zero_copy_only=False)))
    if not both:
        return "No item is in both catalogues."
    return f"{both:,} item ids are in both catalogues: a history may hold its target as a source item."
