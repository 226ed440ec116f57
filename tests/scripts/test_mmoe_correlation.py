"""The synthetic experiment of MMoE: its data, networks of equal size, training side by side, and what is written."""

import dataclasses
import importlib
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    return importlib.import_module("mmoe_correlation")


@pytest.fixture
def parts(script):
    return importlib.import_module("correlated_tasks")


@pytest.fixture
def plan(parts):
    return parts.Plan(
        correlations=(0.2, 0.7, 1.0), seeds=2, steps=12, learning_rates=(0.01,), batch=32, channels=10, points=3
    )


def test_labels_follow_the_equation(parts, plan):
    tasks = parts.Tasks(plan)
    weights = tasks.weights.double()
    for run, p in enumerate(np.repeat(plan.correlations, plan.seeds)):
        one, other = weights[run].T
        assert one.norm().item() == pytest.approx(1, abs=1e-5)
        assert other.norm().item() == pytest.approx(1, abs=1e-5)
        assert (one @ other).item() == pytest.approx(p, abs=1e-5)
    x, labels = (drawn.double().numpy() for drawn in tasks.draw(2000))
    assert x.shape == (6, 2000, 10)
    assert x.std() == pytest.approx(1, abs=0.03)
    noise = np.empty_like(labels)
    for run in range(6):
        phases = tasks.phases[run].flatten().tolist()
        for task in range(2):
            score = x[run] @ weights[run, :, task].numpy()
            waves = sum(np.sin(rate * score + phase) for rate, phase in zip((1, 2, 3, 4), phases, strict=True))
            noise[run, :, task] = labels[run, :, task] - score - waves
    assert noise.std() == pytest.approx(0.1, abs=0.005)
    assert abs(noise.mean()) < 0.005
    assert abs(np.corrcoef(noise[0].T)[0, 1]) < 0.1
    # A seed has the same inputs at every correlation, another seed has others; tasks of cosine 1 differ by noise alone.
    np.testing.assert_array_equal(x[0], x[2])
    assert not np.array_equal(x[0], x[1])
    assert np.abs(labels[4, :, 0] - labels[4, :, 1]).max() < 1.0
    correlations = [np.corrcoef(run.T)[0, 1] for run in labels]
    assert correlations[0] < correlations[2] < correlations[4]


def test_a_seed_does_not_hang_on_how_many_there_are(parts, plan):
    few, many = parts.Tasks(plan), parts.Tasks(dataclasses.replace(plan, seeds=3))
    for a, b in zip(few.draw(5), many.draw(5), strict=True):
        torch.testing.assert_close(a[:2], b[:2])


def test_networks_are_of_equal_size(parts):
    widths = parts.equal_widths(100)
    assert widths["mmoe"] == 16
    counts = {}
    for system, width in widths.items():
        model = parts.TwoTasks(parts.layer_of(system, width=width), channels=100)
        counts[system] = sum(parameter.numel() for parameter in model.parameters())
        assert parts.parameters_of(system, width=width, channels=100) == counts[system]
    # By hand: 8 experts, 2 gates, 2 towers of 8; the shared bottom has the experts' numbers in one wide layer.
    assert counts["mmoe"] == 8 * (100 * 16 + 16) + 2 * 100 * 8 + 2 * (16 * 8 + 8 + 8 + 1)
    wide = widths["shared_bottom"]
    assert counts["shared_bottom"] == (100 + 1) * wide + 2 * (wide * 8 + 8 + 8 + 1)
    assert max(counts.values()) < 1.01 * min(counts.values())


@pytest.mark.parametrize("system", ["shared_bottom", "omoe", "mmoe"])
def test_networks_side_by_side_learn_as_they_do_alone(parts, plan, system):
    found = parts.train(system, width=4, rate=0.01, plan=plan)
    assert found["step"].tolist() == [0, 4, 8, 12]
    assert found["test"].shape == found["validation"].shape == (3, 2, 4)
    tasks, run = parts.Tasks(plan), 3  # the second seed at the second correlation
    x, labels = (drawn[run] for drawn in tasks.draw(2 * parts.HELD_OUT))
    torch.manual_seed(1)
    model = parts.TwoTasks(parts.layer_of(system, width=4), channels=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(plan.steps + 1):
        if step % 4 == 0:
            with torch.no_grad():
                errors = (model(x) - labels).square().mean(1)
            halves = errors[: parts.HELD_OUT].mean().item(), errors[parts.HELD_OUT :].mean().item()
            assert found["validation"][1, 1, step // 4] == pytest.approx(halves[0], rel=1e-4)
            assert found["test"][1, 1, step // 4] == pytest.approx(halves[1], rel=1e-4)
        inputs, wanted = (drawn[run] for drawn in tasks.draw(plan.batch))
        optimizer.zero_grad()
        (model(inputs) - wanted).square().mean().backward()
        optimizer.step()
    assert found["test"][1, 1, -1] < found["test"][1, 1, 0]


def test_intervals(script):
    values = np.array([1.0, 2.0, 3.0, 6.0])
    found = script.interval(values)
    half = 3.182446 * values.std(ddof=1) / 2  # Student's t, 3 degrees of freedom
    assert [found["value"], found["low"], found["high"]] == pytest.approx([3, 3 - half, 3 + half])
    assert script.interval(np.array([2.0])) == {"value": 2.0, "low": None, "high": None}


def test_what_is_written(script, parts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parts, "HELD_OUT", 200)
    options = "--correlations 1 .3 --seeds 2 --steps 20 --learning-rates 1e-5 .02 --batch 16 --channels 6 --sines 1"
    script.main([str(tmp_path / "new"), *options.split()])
    found = json.loads((tmp_path / "new" / "mmoe_correlation.json").read_text())
    assert found["setting"]["correlations"] == [0.3, 1.0]
    errors = {}
    for one in found["results"]:
        errors[one["system"], one["correlation"]] = np.array(one["error"]["per_seed"])
        assert one["error"]["value"] == pytest.approx(np.mean(one["error"]["per_seed"]))
        assert one["curve"]["error"][-1] == pytest.approx(one["error"]["value"])
        assert one["learning_rate"] == 0.02, "so few steps want the larger one"
    assert len(errors) == 6
    for gain in found["gains"]:
        p = gain["correlation"]
        assert gain["value"] == pytest.approx((errors["shared_bottom", p] - errors[gain["of"], p]).mean())
    assert {rise["of"] for rise in found["rises"]} == {"shared_bottom", "omoe", "mmoe"}
    for rise in found["rises"]:
        assert rise["value"] == pytest.approx((errors[rise["of"], 0.3] - errors[rise["of"], 1.0]).mean())
        assert not math.isnan(rise["low"])
    svg = (tmp_path / "new" / "mmoe_correlation.svg").read_text(encoding="utf-8")
    assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--" not in svg
    assert all(word in svg for word in ("p = 0.3", "p = 1", "shared_bottom", "mmoe", "squared error"))
    assert "below" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--correlations 1.5", "from -1 to 1"),
        ("--seeds 0", "at least 1"),
        ("--channels 1", "at least 2"),
        ("--learning-rates 0", "above 0"),
    ],
)
def test_impossible_options_are_named(script, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        script.main([str(tmp_path / "none"), *options.split()])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
