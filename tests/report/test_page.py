import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from peterrec.report.page import environment, flat_settings, report_html

VOID = {"meta", "link", "br", "wbr", "img", "hr", "input"}
LOADS = ("src", "href", "xlink:href", "data", "poster", "srcset", "action")


class Page(HTMLParser):
    """The tags, ids, attributes and texts of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.headings: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)


def report(metrics: dict[str, Any], **more: Any) -> str:
    given: dict[str, Any] = {
        "title": "gender",
        "settings": {"task": "gender"},
        "usage": ["peterrec predict runs/g"],
    }
    return report_html(metrics, **{**given, **more})


SUMMARY = {
    "rows_read": 1000,
    "rows_dropped": {"null item": 3},
    "events": 997,
    "users": 100,
    "items": 50,
    "time": None,
    "parts": {"train": {"rows": 100, "events": 900, "lengths": {"min": 1, "p50": 8, "mean": 9.0, "max": 40}}},
    "histogram": {"edges": [1, 2, 3], "counts": [40, 60]},
    "labels": {"gender": {"labelled": 9, "distinct": 2, "shares": [{"value": "F", "count": 4, "share": 0.444}]}},
    "split": {"name": "temporal", "parameters": {"test": 0.1}, "caveat": "One cut."},
    "notes": ["a note"],
}


def test_everything_is_there_and_nothing_comes_from_outside(metrics: dict[str, Any]) -> None:
    text = report(metrics, summary=SUMMARY)
    page = Page(text)
    for heading in ("gender", "How it was measured", "Results", "Accuracy", "Gains", "Learning curves"):
        assert heading in page.headings
    for heading in (
        "Confusion matrix",
        "Calibration",
        "Data",
        "Lengths",
        "Labels",
        "Labels: gender",
        "Use it",
    ):
        assert heading in page.headings
    for shown in (
        "serial is better",
        "0.810*",
        "[0.790, 0.825]",
        "By user, 70/3/27.",
        "peterrec predict runs/g",
    ):
        assert shown in page.text
    assert page.tags.count("svg") == 8
    assert page.tags.count("details") == 2
    assert not {"script", "img", "iframe", "object", "embed", "image", "foreignobject"} & set(page.tags)
    assert not re.search(r"https?:|@import|<\?xml|<!DOCTYPE svg", text)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in LOADS:
            assert value.startswith("#") or value == "data:,"
    assert ("name", "viewport") in page.attributes
    assert ("lang", "en") in page.attributes
    assert len(text.encode()) < 500_000


def test_ids_are_unique_and_references_meet_them(metrics: dict[str, Any]) -> None:
    text = report(metrics, summary=SUMMARY)
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    references = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert references
    assert {a or b for a, b in references} <= set(page.ids)
    labelled = [value for name, value in page.attributes if name == "aria-labelledby"]
    assert labelled
    assert set(labelled) <= set(page.ids)


def test_every_colour_is_defined_for_light_and_dark(metrics: dict[str, Any]) -> None:
    text = report(metrics)
    used = set(re.findall(r"var\((--[a-z]+)\)", text)) - {"--share"}
    light, dark = re.findall(r":root \{(.*?)\}", text, flags=re.S)
    assert {"--ink", "--model", "--card"} <= used
    for name in used - {"--heat"}:
        assert f"{name}:" in light
        assert f"{name}:" in dark
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.S))
    assert not re.search(r"(?:fill|stroke): #[0-9a-f]{3,6}", drawn)


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_contrast(metrics: dict[str, Any]) -> None:
    for block in re.findall(r":root \{(.*?)\}", report(metrics), flags=re.S):
        colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block))
        for ground in ("card", "tint"):
            for name in ("ink", "muted", "model", "baseline", "control", "ceiling"):
                pair = sorted((luminance(colours[name]), luminance(colours[ground])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, ground)


HOSTILE = "<script>alert(1)</script>\"'&$x^2$ <!-- --> #0072b2 </style>\n漢字"


def test_names_are_inert(metrics: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(metrics).replace('"F"', json.dumps(HOSTILE)).replace("serial", "<script>s"))
    changed["task"] = changed["protocol"] = HOSTILE
    changed["metric"] = "accuracy"
    for entry in changed["curves"]:
        entry["name"] = HOSTILE + str(entry["seed"])
    summary = {**SUMMARY, "notes": [HOSTILE], "labels": {HOSTILE: SUMMARY["labels"]["gender"]}}  # type: ignore[index]
    text = report(changed, title=HOSTILE, settings={HOSTILE: HOSTILE}, usage=[HOSTILE], summary=summary)
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("style") == 1
    assert text.count("<script") == 0
    assert "alert(1)" in page.text  # shown, not dropped
    assert len(page.ids) == len(set(page.ids))


def test_metric_names_are_inert(metrics: dict[str, Any]) -> None:
    text = report(json.loads(json.dumps(metrics).replace("accuracy", "<script>m&")))
    assert "script" not in Page(text).tags


@pytest.mark.parametrize(
    "left",
    [
        (),
        ("results",),
        ("curves",),
        ("results", "gains", "metric"),
        ("confusion", "calibration", "histograms"),
    ],
)
def test_missing_parts(metrics: dict[str, Any], left: tuple[str, ...]) -> None:
    text = report({key: metrics[key] for key in left}, usage=[], settings={})
    assert Page(text).tags.count("h1") == 1
    for key in left:
        metrics[key] = None
    Page(report(metrics))


def test_a_prepared_log_has_a_page() -> None:
    page = Page(report({"stage": "prepare"}, summary=SUMMARY))
    assert "Prepared 100 users, 50 items and 997 events from 1,000 rows read; 3 rows were left out" in page.text
    assert "One cut." in page.text
    assert "a note" in page.text


def test_not_a_number_is_never_shown(metrics: dict[str, Any]) -> None:
    spoiled = copy.deepcopy(metrics)
    spoiled["results"][1]["metrics"]["accuracy"] = {"value": float("nan"), "low": None, "high": float("inf")}
    spoiled["results"][2].update(trained_parameters=float("nan"), seconds=float("inf"))
    spoiled["gains"][0]["high"] = float("nan")
    spoiled["curves"][0]["loss"] = float("nan")
    spoiled["curves"][1]["validation"]["accuracy"] = float("inf")
    spoiled["calibration"]["accuracy"][0] = float("nan")
    spoiled["confusion"]["matrix"][0][0] = float("nan")
    spoiled["histograms"]["labels"]["F"] = float("nan")
    text = report(spoiled)
    assert not re.search(r"\b(?:nan|NaN|inf|Infinity|None)\b", text)
    assert Page(text).tags.count("svg") == 6


def test_twenty_one_classes_stay_small(metrics: dict[str, Any]) -> None:
    labels = [f"occupation number {i}" for i in range(21)]
    metrics["confusion"] = {"labels": labels, "matrix": [[i * j for j in range(21)] for i in range(21)]}
    metrics["histograms"]["labels"] = {label: 5 + i for i, label in enumerate(labels)}
    text = report(metrics)
    assert 'class="confusion many"' in text
    assert len(text.encode()) < 500_000


def test_the_same_metrics_give_the_same_page(metrics: dict[str, Any]) -> None:
    assert report(metrics) == report(metrics)


def test_settings_tell_no_paths_of_the_machine() -> None:
    settings = {
        "encoder": "/home/someone/runs/encoder",
        "files": [r"C:\data\log.csv", "relative/log.csv"],
        "training": {"epochs": 3, "compile": False, "schedule": None},
        "empty": {},
    }
    assert flat_settings(settings) == [
        ("encoder", "…/encoder"),
        ("files", "…/log.csv, relative/log.csv"),
        ("training.epochs", "3"),
        ("training.compile", "false"),
        ("training.schedule", "not set"),
        ("empty", "none"),
    ]


def test_the_environment_is_versions(metrics: dict[str, Any]) -> None:
    import platform

    found = dict(environment(metrics))
    assert found["torch"][0].isdigit()
    assert platform.node() not in found.values()
    assert environment({"environment": {"torch": "9.9"}}) == [("torch", "9.9")]


def test_importing_the_page_does_not_import_matplotlib() -> None:
    code = "import sys, peterrec.report.page, peterrec.report.card; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
