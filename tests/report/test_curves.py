import re
from typing import Any

import pytest

from peterrec.report.curves import curves_svg, validation_metric


def entries(seeds: int, epochs: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "seed": s,
            "epoch": e,
            "step": 10 * e,
            "loss": 1 / e,
            "validation": {"accuracy": 0.5 + 0.1 * (e == 2)},
            **more,
        }
        for s in range(seeds)
        for e in range(1, epochs + 1)
    ]


def draw(curves: list[dict[str, Any]], metric: str | None = "accuracy") -> str:
    return curves_svg(curves, metric=metric, prefix="c", label="curves")


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize("seeds", [1, 3, 6])
def test_each_seed_is_a_line(seeds: int) -> None:
    svg = draw(entries(seeds, 4))
    lines = re.findall(r'd="((?:[ML] [0-9.]+ [0-9.]+ ){4})" clip-path', svg)
    assert len(lines) == 2 * seeds  # a panel of losses, one of the metric
    named = [text for text in texts(svg) if text.startswith("seed")]
    assert named == ([f"seed {s}" for s in range(seeds)] if seeds > 1 else [])


def test_the_star_stands_at_the_best_epoch() -> None:
    def star(metric: str) -> float:
        curves = entries(1, 5)
        for entry in curves:
            entry["validation"] = {metric: entry["validation"]["accuracy"]}
        curves[3]["validation"][metric] = 0.1
        svg = draw(curves, metric)
        last_use = re.findall(r'<use href="[^"]*" x="([0-9.]+)"[^>]*stroke: var\(--card\)', svg)[-1]
        line = re.findall(r'd="((?:[ML] [0-9.]+ [0-9.]+ ){5})" clip-path', svg)[0]
        places = [float(x) for x in re.findall(r"[ML] ([0-9.]+)", line)]
        return min(range(5), key=lambda i: abs(places[i] - float(last_use)))

    assert star("accuracy") == 1  # the second epoch
    assert star("log_loss") == 3  # the smallest


def test_one_epoch() -> None:
    svg = draw(entries(2, 1))
    assert [text for text in texts(svg) if text.isdigit()] == ["1"]


def test_models_share_a_colour_and_many_lines_need_no_legend() -> None:
    several = entries(3, 3, name="serial") + entries(3, 3, name="none")
    assert [t for t in texts(draw(several)) if t in ("serial", "none")] == ["serial", "none"]
    assert not [t for t in texts(draw(entries(9, 3))) if t.startswith("seed")]
    assert "_hidden" in texts(draw(entries(2, 3, name="_hidden") + entries(2, 3, name="b")))


def test_repeated_epochs_are_drawn_over_steps() -> None:
    curves = [{"epoch": 1, "step": s, "loss": 1 / s} for s in (1, 2, 3)]
    assert "step" in texts(draw(curves, None))
    assert "epoch" in texts(draw(entries(1, 3)))


def test_nothing_to_draw() -> None:
    assert draw([]) == ""
    assert draw([{"epoch": 1, "loss": float("nan"), "validation": None}]) == ""
    assert validation_metric([], "accuracy") is None
    assert validation_metric(entries(1, 1), "hr@10") == "accuracy"


def test_of_many_models_the_first_and_the_best_are_named() -> None:
    curves = [entry for i in range(20) for entry in entries(3, 4, name=f"m{i}")]
    for entry in curves:
        entry["validation"] = {"accuracy": 0.5 + 0.01 * (int(entry["name"][1:]) % 16) + 0.001 * entry["epoch"]}
    svg = draw(curves)
    named = [text for text in texts(svg) if text.startswith("m") or "others" in text]
    assert named == ["m0", "m12", "m13", "m14", "m15", "15 others"]
    assert svg.count("var(--line)") > 15 * 3
    stars = re.findall(r'<use href="[^"]*"[^>]*stroke: var\(--card\)', svg)
    assert len(stars) == 5 * 3
    lines = re.findall(r'd="((?:[ML] [0-9.]+ [0-9.]+ ){4})" clip-path', svg)
    assert len(lines) == 2 * 20 * 3
