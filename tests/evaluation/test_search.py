"""The search for learning rates: what is chosen, what is told, and what an interrupted one does again."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from peterrec.catalogue import adapter
from peterrec.errors import DivergedError, SettingsError
from peterrec.evaluation.search import RATES, best_rate, check_rates, effort, notes, parse_rates, search
from peterrec.transfer import Contestant, Fitted

NONE = Contestant("none", adapter("none"))


def fitted(validation: float | None, seconds: float = 1.0) -> Fitted:
    return Fitted(
        model=None,
        probabilities=np.ones((1, 2)),
        history=[],
        best_epoch=3,
        validation=validation,
        trained_parameters=1,
        parameters=2,
        seconds=seconds,
        peak_memory_bytes=None,
    )


@dataclass
class Table:
    """Trials that end as a table says: (seed, rate) to a validation figure, or "diverged"."""

    figures: dict[tuple[int, float], Any]
    seeds: tuple[int, ...] = (0, 1)
    asked: list[tuple[int, float]] = field(default_factory=list)

    @property
    def arena(self) -> Any:
        return SimpleNamespace(plan=SimpleNamespace(seeds=self.seeds))

    def run(self, trial: Any) -> Fitted:
        self.asked.append((trial.seed, trial.learning_rate))
        figure = self.figures.get((trial.seed, trial.learning_rate), 0.5)
        if figure == "diverged":
            raise DivergedError("a loss of nan")
        return fitted(figure)


def searched(figures: dict[tuple[int, float], Any], rates=(0.1, 0.2, 0.4), **more: Any):
    table = Table(figures, **more)
    return search(NONE, table, rates=rates), table  # type: ignore[arg-type]


def test_the_best_rate_of_the_first_seed_trains_the_others() -> None:
    found, table = searched({(7, 0.1): 0.6, (7, 0.2): 0.9, (7, 0.4): 0.8, (8, 0.4): 1.0}, seeds=(7, 8, 9))
    assert found.learning_rate == 0.2
    assert table.asked == [(7, 0.1), (7, 0.2), (7, 0.4), (8, 0.2), (9, 0.2)]
    assert list(found.fitted) == [7, 8, 9]
    assert found.fitted[7].validation == 0.9
    assert found.tried == [
        {"learning_rate": 0.1, "validation": 0.6, "best_epoch": 3},
        {"learning_rate": 0.2, "validation": 0.9, "best_epoch": 3},
        {"learning_rate": 0.4, "validation": 0.8, "best_epoch": 3},
    ]
    assert found.seconds == 3.0


def test_of_equals_the_smallest_rate_counts_in_any_order() -> None:
    assert searched({(0, r): 0.7 for r in (0.1, 0.2, 0.4)}, rates=(0.4, 0.1, 0.2))[0].learning_rate == 0.1
    assert best_rate({0.4: 0.7, 0.2: 0.7, 0.1: 0.6}) == 0.2
    assert best_rate({0.4: None, 0.2: None}) == 0.2
    assert best_rate({0.4: 0.0, 0.2: None}) == 0.4


def test_a_rate_that_diverges_is_out_and_told() -> None:
    found, _ = searched({(0, 0.1): 0.6, (0, 0.2): 0.7, (0, 0.4): "diverged"})
    assert found.learning_rate == 0.2
    assert found.tried[2] == {"learning_rate": 0.4, "validation": None, "best_epoch": None, "diverged": True}
    [said] = notes([{"name": "none", "learning_rate": 0.2, "search": found.tried}], (0.1, 0.2, 0.4))
    assert "none diverged at 0.4" in said
    with pytest.raises(DivergedError, match="every learning rate"):
        searched({(0, rate): "diverged" for rate in (0.1, 0.2, 0.4)})
    with pytest.raises(DivergedError, match="nan"):  # at the chosen rate, on another seed
        searched({(0, 0.1): 0.9, (1, 0.1): "diverged"})


def test_edges_of_the_grid_are_told() -> None:
    results = [{"name": name, "learning_rate": rate} for name, rate in (("a", 0.1), ("b", 0.2), ("c", 0.4), ("d", 0.4))]
    low, high = notes(results, (0.1, 0.2, 0.4))
    assert "0.1 is its smallest" in low
    assert "(a)" in low
    assert "0.4 is its largest" in high
    assert "(c, d)" in high
    assert notes(results[1:2], (0.1, 0.2, 0.4)) == []
    assert notes(results, None) == notes(results[:1], (0.1,)) == []


def test_the_effort_in_words() -> None:
    text = effort((2e-3, 5e-4), metric="roc_auc", seed=3)
    for part in ("0.0005, 0.002", "best roc_auc on validation users of seed 3"):
        assert part in text
    assert "own learning rate" in effort(None, metric="roc_auc", seed=0)
    assert "validation" not in effort((0.1,), metric="roc_auc", seed=0)


def test_grids() -> None:
    assert parse_rates("5e-4,2e-3,8e-3") == RATES
    assert parse_rates(" 0.1, 0.01 ,") == (0.01, 0.1)
    assert parse_rates("recipe") is None
    for wrong in ("", "fast", "0.1,0.1", "0", "-1e-3", "inf", "nan", "recipe,0.1"):
        with pytest.raises(SettingsError, match="--learning-rates"):
            parse_rates(wrong)
    with pytest.raises(SettingsError):
        check_rates([0.1, float("nan")])
