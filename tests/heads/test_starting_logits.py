"""Constants at which heads start."""

import numpy as np
import pytest

from peterrec.heads.compose import parse_derived
from peterrec.heads.starting_logits import starting_logits
from peterrec.impression_recipe import Head
from peterrec.objective_recipe import Objective


def logit(p):
    return np.log(p / (1 - p))


def of(names):
    return [Head(name=name) for name in names]


def test_a_head_with_a_label_of_its_own_starts_at_its_rate():
    found = starting_logits(
        [*of("ab"), Head(name="v", output="value")],
        derived={},
        objectives=[
            Objective(of="a", label="a"),
            Objective(of="b", label="b", weight=3.0),
            Objective(of="v", label="v", loss="mse"),
        ],
        rates=[0.01, 0.7, 12.0],
    )
    assert found == {"a": pytest.approx(logit(0.01), abs=1e-3), "b": pytest.approx(logit(0.7), abs=1e-3)}


def test_a_factor_starts_at_the_quotient():
    derived = {"ctcvr": parse_derived("ctr * cvr", ["ctr", "cvr"])}
    objectives = [Objective(of="ctr", label="click"), Objective(of="ctcvr", label="conversion")]
    found = starting_logits(of(["ctr", "cvr"]), derived=derived, objectives=objectives, rates=[0.15, 0.009])
    assert found["ctr"] == pytest.approx(logit(0.15), abs=0.02)
    assert found["cvr"] == pytest.approx(logit(0.06), abs=0.02)


def test_what_is_left_open_explains_the_rates_and_stays_even():
    known = ["ctr", "d", "b", "o"]
    derived = {"ctavr": parse_derived("ctr * d", known)}
    derived["cvr"] = parse_derived("d * b + (1 - d) * o", [*known, "ctavr"])
    derived["ctcvr"] = parse_derived("ctr * cvr", [*known, "ctavr", "cvr"])
    objectives = [Objective(of=name, label=name) for name in ("ctr", "ctavr", "ctcvr")]
    found = starting_logits(of(known), derived=derived, objectives=objectives, rates=[0.2, 0.05, 0.02])
    p = {name: 1 / (1 + np.exp(-value)) for name, value in found.items()}
    assert p["ctr"] == pytest.approx(0.2, abs=2e-3)
    assert p["ctr"] * p["d"] == pytest.approx(0.05, abs=2e-3)
    assert p["ctr"] * (p["d"] * p["b"] + (1 - p["d"]) * p["o"]) == pytest.approx(0.02, abs=2e-3)


def test_rates_of_nothing_and_of_everything_stay_finite():
    found = starting_logits(of("ab"), derived={}, objectives=[Objective(of=n, label=n) for n in "ab"], rates=[0.0, 1.0])
    assert all(np.isfinite(value) and 5 < abs(value) < 30 for value in found.values())


def test_without_a_probability_to_learn_all_start_even():
    assert starting_logits(of("a"), derived={}, objectives=[Objective(of="a", label="a", loss="mse")], rates=[1.0]) == {
        "a": 0.0
    }
