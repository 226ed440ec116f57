import re
from typing import Any

import matplotlib
import pytest

from peterrec.report import plots
from peterrec.report.svg import WIDTH, inline_svg, shorten

DOTS = [
    plots.Dot("serial", "model", 0.81, 0.79, 0.83, "0.810 [0.790, 0.830]"),
    plots.Dot("bag", "baseline", 0.80, None, None, "0.800"),
]


def forest(**more: Any) -> str:
    return plots.forest_svg(DOTS, prefix="a", label="accuracy", **more)


def test_text_stays_text_and_is_searchable() -> None:
    svg = forest()
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"serial", "bag", "0.810 [0.790, 0.830]"} <= set(texts)
    assert 'aria-label="accuracy"' in svg
    assert f'viewBox="0 0 {WIDTH} ' in svg
    assert not re.search(r"<svg[^>]*\b(?:width|height|xmlns)=", svg)


def test_settings_of_the_caller_neither_change_nor_matter() -> None:
    before = dict(matplotlib.rcParams)
    plain = forest()
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"text.usetex": True, "svg.fonttype": "path", "font.size": 40, "axes.grid": True}):
        assert forest() == plain


def test_letters_without_a_glyph_do_not_warn() -> None:
    dot = plots.Dot("漢字 $x_1^$ \U0001f600", "model", 0.5, 0.4, 0.6, "0.500")
    svg = plots.forest_svg([dot], prefix="a", label="x")
    assert "漢字 $x_1^$" in svg


def test_the_zero_line_is_always_in_view() -> None:
    far = [plots.Dot("a", "model", 5.0, 4.0, 6.0, "")]
    ticks = [
        float(t)
        for t in re.findall(r"<text[^>]*>(-?[0-9.]+)</text>", plots.forest_svg(far, prefix="a", label="", zero=True))
    ]
    assert 0.0 in ticks
    assert 0.0 not in [
        float(t) for t in re.findall(r"<text[^>]*>(-?[0-9.]+)</text>", plots.forest_svg(far, prefix="a", label=""))
    ]


def test_one_value_without_interval_is_drawn() -> None:
    assert plots.forest_svg([plots.Dot("a", "model", 0.5, None, None, "")], prefix="a", label="")
    assert plots.forest_svg([], prefix="a", label="") == ""


def test_bars_are_as_long_as_their_values() -> None:
    svg = plots.bars_svg([("a", 10, "10"), ("b", 40, "40"), ("c", 0, "0")], prefix="a", label="")
    boxes = re.findall(
        r'd="M ([0-9.]+) [0-9.]+ L ([0-9.]+) [^"]*" (?:clip-path="[^"]*" )?style="fill: var\(--model\)"', svg
    )
    lengths = [float(right) - float(left) for left, right in boxes]
    assert lengths[1] == pytest.approx(4 * lengths[0], rel=1e-4)
    assert lengths[2] == 0


@pytest.mark.parametrize("bins", [1, 2, 45])
def test_a_histogram_has_a_bar_for_each_bin(bins: int) -> None:
    svg = plots.histogram_svg(list(range(bins + 1)), [3] * bins, axis="x", prefix="a", label="")
    assert svg.count('style="fill: var(--model)"') == bins
    assert plots.histogram_svg([1, 2], [3, 4], axis="x", prefix="a", label="") == ""


def test_calibration_leaves_empty_bins_out() -> None:
    calibration = {"confidence": [0.1, None, 0.9], "accuracy": [0.2, 0.5, float("nan")], "count": [5, 0, 2]}
    assert plots.calibration_svg(calibration, prefix="a", label="").count("<use") > 0
    assert plots.calibration_svg({}, prefix="a", label="") == ""
    assert plots.calibration_svg({"confidence": [0.5], "accuracy": [None], "count": [1]}, prefix="a", label="") == ""


def test_prefixes_keep_ids_apart() -> None:
    first, second = (
        inline_svg(lambda f: f.add_subplot().plot([1, 2], "o"), height=80, prefix=p, label="") for p in "ab"
    )
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_shorten_counts_wide_letters_twice() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"
    assert shorten("漢字漢字", 6) == "漢字…"
