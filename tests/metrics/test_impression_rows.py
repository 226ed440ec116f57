"""Measures by output and domain, under a bootstrap's weights, against rows that are really repeated."""

import numpy as np
import pytest

from peterrec.errors import DataError, DivergedError, SettingsError
from peterrec.metrics.click_rates import auc, log_loss, ne, pcoc, rmse
from peterrec.metrics.impression_rows import (
    FEW_REPLICATES,
    ImpressionRows,
    MeasuredOutput,
    bootstrap_facts,
    replicates_of,
)
from peterrec.metrics.intervals import REPLICATES, Bootstrap, metric_intervals, paired_gain
from peterrec.metrics.user_auc import gauc

COUNT = 400
DOMAINS = ("young", "old")


class World:
    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.users = np.array([f"u{number}" for number in random.integers(40, size=COUNT)])
        self.domains = random.integers(-1, 2, size=COUNT)
        self.click = (random.random(COUNT) < 0.5).astype(np.float32)
        self.buy = np.where(self.click == 1, (random.random(COUNT) < 0.4), 0).astype(np.float32)
        self.buy[random.random(COUNT) < 0.1] = np.nan
        self.dwell = random.exponential(size=COUNT).astype(np.float32)
        self.ctr, self.cvr = (random.integers(1, 20, size=COUNT) / 20 for _ in range(2))
        self.told = random.exponential(size=COUNT)
        self.weights = random.integers(1, 4, size=COUNT).astype(np.float32)

    def outputs(self) -> dict[str, MeasuredOutput]:
        everywhere = np.ones(COUNT, dtype=bool)
        return {
            "ctr": MeasuredOutput(self.click, self.ctr, everywhere),
            "cvr": MeasuredOutput(self.buy, self.cvr, self.click == 1),
            "dwell": MeasuredOutput(self.dwell, self.told, everywhere, "value"),
        }

    def rows(self, *, users: bool = True, weights: bool = True, **more) -> ImpressionRows:  # type: ignore[no-untyped-def]
        own = self.weights if weights else None
        return ImpressionRows(self.users if users else None, self.domains, DOMAINS, self.outputs(), own, **more)

    def expected(self, name: str, counts: np.ndarray) -> float:
        """By the functions on rows, each user's rows as often as the user was drawn, under another name each time."""
        output, measure, *domain = name.split("/")
        if output == "mean":
            return (self.expected(f"ctr/{measure}", counts) + self.expected(f"cvr/{measure}", counts)) / 2
        found = self.outputs()[output]
        kept = np.asarray(found.rows) & ~np.isnan(found.label)
        kept &= self.domains == DOMAINS.index(domain[0].removeprefix("domain=")) if domain else True
        rows = np.repeat(np.flatnonzero(kept), counts[kept].astype(int))
        copy = np.concatenate([np.arange(int(counts[row])) for row in np.flatnonzero(kept)])
        drawn = np.char.add(self.users[rows], np.char.add("#", copy.astype(str)))
        label, told, own = np.asarray(found.label)[rows], np.asarray(found.prediction)[rows], self.weights[rows]
        weightings = {"gauc": "impressions", "gauc_mean": "users", "gauc_positives": "positives"}
        if measure in weightings:
            return gauc(label, told, drawn, weighting=weightings[measure], weights=own)  # type: ignore[arg-type]
        measures = {"auc": auc, "log_loss": log_loss, "ne": ne, "pcoc": pcoc, "rmse": rmse}
        return float(measures[measure](label, told, weights=own))


def test_names_go_by_output_measure_and_domain() -> None:
    names = World().rows().names
    measures = ("auc", "log_loss", "ne", "pcoc", "gauc", "gauc_mean", "gauc_positives")
    places = ("", "/domain=young", "/domain=old")
    wanted = [f"{output}/{measure}{place}" for output in ("ctr", "cvr") for place in places for measure in measures]
    assert list(names) == ["mean/auc", "mean/log_loss", *wanted, *(f"dwell/rmse{place}" for place in places)]
    assert not [name for name in World().rows(users=False).names if "gauc" in name]


def test_a_draw_of_users_measures_their_repeated_rows() -> None:
    world = World()
    rows = world.rows()
    bootstrap = Bootstrap(world.users, replicates=5, seed=3)
    [block] = bootstrap.blocks()
    weights = block[:, bootstrap.places(world.users)]
    found = rows.measure(weights, rows.names)
    assert list(found) == list(rows.names)
    for name in rows.names:
        assert found[name].shape == (5,)
        assert found[name] == pytest.approx([world.expected(name, counts) for counts in weights]), name
    asked = ["cvr/ne/domain=old", "ctr/auc", "mean/auc"]
    alone = rows.measure(weights, asked)
    assert list(alone) == asked
    assert all(np.array_equal(alone[name], found[name]) for name in alone)


def test_without_users_a_row_is_a_cluster() -> None:
    world = World(1)
    rows = world.rows(users=False)
    weights = np.random.default_rng(0).integers(0, 3, size=(3, COUNT)).astype(float)
    for name, values in rows.measure(weights, rows.names).items():
        assert values == pytest.approx([world.expected(name, counts) for counts in weights]), name


def test_row_numbers_join_seeds_that_test_other_rows() -> None:
    world = World(2)
    numbers = np.arange(COUNT) * 3 + 7
    rows = world.rows(users=False, row_numbers=numbers)
    assert np.array_equal(np.asarray(rows.users), numbers)
    found = metric_intervals([rows, world.rows(users=False, row_numbers=numbers + 3)], replicates=20)
    assert len(found["ctr/auc"]["per_seed"]) == 2  # type: ignore[arg-type]


def test_no_label_no_space_and_no_second_class_leave_figures_out() -> None:
    world = World(3)
    world.domains[world.click == 1] = 0
    found = metric_intervals([world.rows()], replicates=30)
    assert "ctr/auc/domain=old" not in found  # nobody clicked there
    assert "ctr/log_loss/domain=old" in found
    assert not [name for name in found if name.startswith("cvr") and name.endswith("old")]
    assert found["cvr/auc"]["value"] == pytest.approx(world.expected("cvr/auc", np.ones(COUNT)))


def test_a_better_model_is_shown_to_be_better_on_the_same_draws() -> None:
    world, better = World(4), World(4)
    better.ctr = 0.8 * world.ctr + 0.2 * world.click
    gain = paired_gain([better.rows()], [world.rows()], metric="ctr/auc", replicates=200)
    assert gain is not None
    assert 0 < gain.low < gain.value < gain.high
    assert paired_gain([world.rows()], [world.rows()], metric="ctr/pcoc", replicates=20).high == 0  # type: ignore[union-attr]


def test_calibration_is_that_of_counted_rows_of_probabilities() -> None:
    world = World(5)
    calibration = world.rows(weights=False).calibration
    assert list(calibration) == ["ctr", "cvr"]
    assert sum(one["rows"] for one in calibration["ctr"]) == COUNT
    counted = (world.click == 1) & ~np.isnan(world.buy)
    assert sum(one["rows"] for one in calibration["cvr"]) == counted.sum()
    observed = sum(one["rows"] * one["observed"] for one in calibration["cvr"])
    assert observed == pytest.approx(world.buy[counted].sum())


def test_what_cannot_be_measured_is_refused() -> None:
    world, nothing = World(), np.zeros(0)
    with pytest.raises(DataError, match="no impressions"):
        ImpressionRows(nothing, nothing, (), {})
    world.cvr[np.flatnonzero(world.click == 0)[0]] = np.nan  # outside of its space: nobody asks
    world.rows()
    world.ctr[7] = np.nan
    with pytest.raises(DivergedError, match="ctr for test row 7"):
        world.rows()
    world = World()
    world.click[3] = 2
    with pytest.raises(DataError, match="ctr in test row 3 is 2"):
        world.rows()


def test_the_whole_model_is_measured_by_the_mean_or_its_only_probability() -> None:
    world = World()
    assert world.rows().main("auc") == "mean/auc"
    outputs = {name: output for name, output in world.outputs().items() if name != "ctr"}
    alone = ImpressionRows(world.users, world.domains, DOMAINS, outputs)
    assert alone.main("log_loss") == "cvr/log_loss"
    assert "mean/log_loss" not in alone.names
    with pytest.raises(SettingsError, match="another name"):
        ImpressionRows(world.users, world.domains, DOMAINS, {"mean": outputs["cvr"]})


def test_very_many_rows_take_fewer_replicates() -> None:
    world = World()
    assert replicates_of([world.rows()]) == REPLICATES
    assert bootstrap_facts(users=True, replicates=FEW_REPLICATES) == {"over": "users", "replicates": 300}
    many = 500_000
    rows = ImpressionRows(None, np.full(many, -1), (), {"x": MeasuredOutput(np.zeros(1), np.zeros(1), np.zeros(1))})
    assert replicates_of([rows]) == FEW_REPLICATES
