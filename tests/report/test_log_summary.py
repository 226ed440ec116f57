import re
from typing import Any

from peterrec.report.log_summary import distributions, summary_html, summary_verdict


def found(value: Any, *, bare: bool) -> dict[str, tuple[str, str]]:
    return {title: (svg, caption) for title, svg, caption in distributions(value, "", prefix="p", bare=bare)}


def test_histograms_are_found_wherever_they_stand() -> None:
    bins = {"edges": [1, 2, 4], "counts": [3, 4]}
    shares = [{"value": f"v{i}", "count": 30 - i, "share": 0.1} for i in range(20)]
    summary = {
        "parts": {"train": {"rows": 7, "histogram": bins, "lengths": {"p50": 2, "max": 3}}},
        "labels": {"job": {"labelled": 500, "distinct": 50, "shares": shares}},
    }
    figures = found(summary, bare=False)
    assert list(figures) == ["train: history lengths", "labels: job"]
    assert "30 rarer" in figures["labels: job"][1]
    ids = [i for svg, _ in figures.values() for i in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))


def test_plain_counts_become_bars_and_the_tail_is_gathered() -> None:
    [(svg, _)] = found({"labels": {f"c{i}": 2 for i in range(50)}}, bare=True).values()
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert "26 others" in texts
    assert "52 (52.0%)" in texts
    assert "2 (2.0%)" in texts
    [(svg, _)] = found({"labels": {"F": 0.25, "M": 0.75}}, bare=True).values()
    assert "25.0%" in svg


def test_what_is_absent_is_left_out() -> None:
    assert summary_html({}) == ""
    assert summary_verdict({}) == ""
    assert summary_verdict({"users": 2}) == "Prepared 2 users; no row was left out."
    assert found({"edges": [], "counts": []}, bare=False)[""][0] == ""
    assert "temporal" in summary_html({"split": "temporal"})


def test_parts_are_a_table() -> None:
    page = summary_html({"parts": {"train": {"rows": 1200, "lengths": {"p50": 3, "mean": 3.25}}, "test": {"rows": 5}}})
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", page)
    assert cells == ["part", "rows", "p50", "mean", "train", "1,200", "3", "3.2", "test", "5", "–", "–"]
