"""Quality against trained parameters: what a result costs and what one gets for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from peterrec.report.plots import MARKERS
from peterrec.report.svg import COLOURS, FONT, WIDTH, inline_svg, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT, RIGHT, TOP, BOTTOM = 42, 8, 8, 38  # points around the axes
LETTER, LINE = 0.6 * (FONT - 1), FONT + 2  # about the size of a name's letters, since the browser picks the font
LONGEST = 20  # letters of a name
MARKER = 8
DISTANCES = (9, 15, 22, 30, 40, 52, 66, 82, 100)
AWAY = 15  # from there on a line leads from the name to its point
Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class Point:
    """One result: its trained parameters (above 0) and its value with the interval, if there is one."""

    name: str
    role: str
    parameters: float
    value: float
    low: float | None
    high: float | None


def trade_off_svg(points: Sequence[Point], *, line: tuple[str, float] | None, prefix: str, label: str) -> str:
    """The points with intervals over trained parameters (logarithmic), each named; `line` is a level to beat.

    Empty for fewer than two points.
    """
    if len(points) < 2:
        return ""
    wide, high = WIDTH - LEFT - RIGHT, 150 + 9 * min(len(points), 30)
    height = high + TOP + BOTTOM
    exponents = [math.log10(point.parameters) for point in points]
    levels = [v for p in points for v in (p.value, p.low, p.high) if v is not None] + ([line[1]] if line else [])
    x_room = (max(exponents) - min(exponents)) * 0.08 or 0.5
    y_room = (max(levels) - min(levels)) * 0.06 or 0.01
    x_ends = (min(exponents) - x_room, max(exponents) + x_room)
    y_ends = (min(levels) - y_room, max(levels) + y_room)

    def place(exponent: float, level: float) -> tuple[float, float]:
        """In points from the lower left corner of the axes."""
        x, y = (exponent - x_ends[0]) / (x_ends[1] - x_ends[0]), (level - y_ends[0]) / (y_ends[1] - y_ends[0])
        return x * wide, y * high

    places = [place(exponent, point.value) for exponent, point in zip(exponents, points, strict=True)]
    names = [shorten(point.name, LONGEST) for point in points]
    taken: list[Box] = []
    level_name = shorten(line[0], LONGEST) if line else ""
    if line:
        y = place(0, line[1])[1]
        taken.append((0, y - 1, _width(level_name) + 4, y + LINE))
    boxes = name_boxes(places, [_width(name) for name in names], bounds=(0, 0, wide, high), taken=taken)

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import FixedLocator, FuncFormatter

        axes = figure.add_axes((LEFT / WIDTH, BOTTOM / height, wide / WIDTH, high / height))
        axes.set_xlim(*x_ends)
        axes.set_ylim(*y_ends)
        axes.grid()
        axes.set_xlabel("trained parameters")
        axes.locator_params(axis="y", nbins=6)
        axes.xaxis.set_major_locator(FixedLocator(_ticks(*x_ends)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda exponent, _: _parameters(10**exponent)))
        if line:
            axes.axhline(line[1], color=COLOURS["baseline"], linewidth=1.2, linestyle=(0, (4, 3)))
            axes.annotate(
                level_name, (0, line[1]), (3, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                color=COLOURS["baseline"], fontsize=FONT - 1,
            )  # fmt: skip
        for point, exponent, name, (x, y), box in zip(points, exponents, names, places, boxes, strict=True):
            colour = COLOURS.get(point.role, COLOURS["muted"])
            if point.low is not None and point.high is not None:
                axes.plot([exponent] * 2, [point.low, point.high], color=colour, linewidth=1.4, alpha=0.55)
            face = colour if point.role == "model" else COLOURS["card"]
            marker = MARKERS.get(point.role, "o")
            axes.plot([exponent], [point.value], marker, markersize=6, color=colour, markerfacecolor=face, zorder=4)
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            backing: dict[str, Any] = {"facecolor": COLOURS["card"], "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
            far = math.dist((x, y), (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))) > AWAY
            lead = {"arrowstyle": "-", "color": COLOURS["muted"], "linewidth": 0.6} if far else None
            axes.annotate(
                name, (exponent, point.value), (middle[0] - x, middle[1] - y), textcoords="offset points",
                ha="center", va="center", fontsize=FONT - 1, bbox=backing, arrowprops=lead, zorder=5,
            )  # fmt: skip

    return inline_svg(draw, height=height, prefix=prefix, label=label)


def name_boxes(
    places: Sequence[tuple[float, float]], widths: Sequence[float], *, bounds: Box, taken: Sequence[Box] = ()
) -> list[Box]:
    """A box for the name beside each point, off the other names, the points and what is `taken`, where there is room.

    The nearest free place counts, beside before above before across; without any, the one that covers least.
    """
    half = MARKER / 2
    markers = [(x - half, y - half, x + half, y + half) for x, y in places]
    boxes: list[Box] = []
    for (x, y), width in zip(places, widths, strict=True):
        best: tuple[float, Box] | None = None
        for distance in DISTANCES:
            for right, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
                reach = distance * (0.75 if right and up else 1)
                middle_x = x + right * (reach + width / 2)
                middle_y = y + up * (reach + LINE / 4)
                box = (middle_x - width / 2, middle_y - LINE / 2, middle_x + width / 2, middle_y + LINE / 2)
                inside = box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]
                covered = sum(_shared(box, other) for other in (*boxes, *markers, *taken))
                covered += 0 if inside else 1e6
                if best is None or covered < best[0]:
                    best = (covered, box)
            if best is not None and best[0] == 0:
                break
        assert best is not None
        boxes.append(best[1])
    return boxes


def _shared(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def _width(name: str) -> float:
    return LETTER * sum(2 if east_asian_width(letter) in "WF" else 1 for letter in name)


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two exponents, with 2 and 5 times them where these are few."""
    parts = (1,) if high - low > 2 else (1, 2, 5)
    places = [power + math.log10(part) for power in range(math.floor(low), math.ceil(high) + 1) for part in parts]
    return [place for place in places if low <= place <= high]


def _parameters(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size * 0.9995:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
