import random
import re
from itertools import combinations

import pytest

from peterrec.report.trade_off import LINE, Box, Point, name_boxes, trade_off_svg

BOUNDS = (0.0, 0.0, 300.0, 330.0)


def shared(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def draw(points: list[Point], line: tuple[str, float] | None = None) -> str:
    return trade_off_svg(points, line=line, prefix="t", label="quality against parameters")


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize("seed", range(5))
def test_twenty_names_cover_neither_each_other_nor_points(seed: int) -> None:
    draws = random.Random(seed)
    places = [(draws.uniform(20, 280), draws.uniform(120, 220)) for _ in range(20)]
    widths = [draws.uniform(20, 75) for _ in places]
    taken = [(0.0, 160.0, 40.0, 175.0)]
    boxes = name_boxes(places, widths, bounds=BOUNDS, taken=taken)
    for (x, y), box, width in zip(places, boxes, widths, strict=True):
        assert box[2] - box[0] == pytest.approx(width)
        assert box[3] - box[1] == pytest.approx(LINE)
        assert BOUNDS[0] <= box[0] < box[2] <= BOUNDS[2]
        assert BOUNDS[1] <= box[1] < box[3] <= BOUNDS[3]
        assert not shared(box, taken[0])
        assert abs((box[0] + box[2]) / 2 - x) < 160
        assert abs((box[1] + box[3]) / 2 - y) < 120
        assert not any(shared(box, (a - 3, b - 3, a + 3, b + 3)) for a, b in places)
    assert not [pair for pair in combinations(boxes, 2) if shared(*pair)]


def test_a_lone_point_has_its_name_at_its_right_and_one_at_the_edge_at_its_left() -> None:
    [right], [left] = (name_boxes([(x, 50.0)], [30.0], bounds=(0, 0, 100, 100)) for x in (20.0, 90.0))
    assert 20 < right[0] < 35
    assert 75 < left[2] < 90


def test_no_room_is_no_error() -> None:
    assert len(name_boxes([(5.0, 5.0)] * 4, [50.0] * 4, bounds=(0, 0, 10, 10))) == 4


def places(svg: str) -> dict[str, tuple[float, float]]:
    """Where the markers stand, by their fill and shape in the order of drawing."""
    found = re.findall(r'<use href="#[^"]*" x="([0-9.]+)" y="([0-9.]+)" style="[^"]*stroke: var\(--(\w+)\)', svg)
    markers = [(float(x), float(y)) for x, y, colour in found if colour in ("model", "control")]
    return dict(zip("abc", markers, strict=True))


def test_parameters_are_logarithmic_and_higher_is_better() -> None:
    points = [
        Point("a", "model", 100, 0.7, 0.68, 0.72),
        Point("b", "model", 1000, 0.8, None, None),
        Point("c", "control", 10_000, 0.75, 0.7, 0.8),
    ]
    svg = draw(points, ("bag", 0.78))
    found = places(svg)
    assert found["b"][0] - found["a"][0] == pytest.approx(found["c"][0] - found["b"][0])
    assert found["b"][1] < found["c"][1] < found["a"][1]  # downwards
    assert {"a", "b", "c", "bag", "100", "1 k", "10 k", "trained parameters"} <= set(texts(svg))
    assert "var(--baseline)" in svg
    assert "var(--baseline)" not in draw(points)


def test_equal_points_and_too_few() -> None:
    same = [Point(name, "model", 5e6, 0.5, None, None) for name in "ab"]
    assert {"a", "b"} <= set(texts(draw(same)))
    assert {"2 M", "5 M", "10 M"} <= set(texts(draw(same)))
    assert draw(same[:1]) == draw([]) == ""


def test_names_are_text() -> None:
    points = [Point(f"<b>$x^{i}$", "model", 10.0**i, 0.5, None, None) for i in (2, 3)]
    svg = draw(points)
    assert "<b>" not in svg
    assert "&lt;b&gt;$x^2$" in svg
