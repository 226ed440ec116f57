"""The figures of a report, each as inline SVG: forests, calibration, bars, histograms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peterrec.report.reading import finite, plain
from peterrec.report.svg import COLOURS, FONT, WIDTH, inline_svg, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {"model": "o", "control": "D", "baseline": "s", "ceiling": "^"}


@dataclass(frozen=True)
class Dot:
    """One row of a forest plot: a value with its interval."""

    name: str
    role: str
    value: float
    low: float | None
    high: float | None
    text: str


def forest_svg(dots: Sequence[Dot], *, prefix: str, label: str, zero: bool = False) -> str:
    """Dots with intervals below each other, each under its name; with `zero`, the line of no gain."""
    pitch, bottom, top = 34, 24, 4
    height = top + pitch * len(dots) + bottom

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes((0.03, bottom / height, 0.94, pitch * len(dots) / height))
        axes.set_ylim(len(dots), 0)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
        ends = [v for dot in dots for v in (dot.value, dot.low, dot.high) if v is not None] + [0.0] * zero
        room = (max(ends) - min(ends)) * 0.05 or 0.01
        axes.set_xlim(min(ends) - room, max(ends) + room)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="x")
        if zero:
            axes.axvline(0, color=COLOURS["ink"], linewidth=1.2)
        for row, dot in enumerate(dots):
            colour = COLOURS.get(dot.role, COLOURS["muted"])
            if dot.role == "ceiling" and not zero:
                axes.axvline(dot.value, color=colour, linewidth=1, linestyle=(0, (3, 3)))
            if dot.low is not None and dot.high is not None:
                axes.plot([dot.low, dot.high], [row + 0.72] * 2, color=colour, linewidth=2, solid_capstyle="butt")
            face = colour if dot.role == "model" else COLOURS["card"]
            marker = MARKERS.get(dot.role, "o")
            axes.plot(
                [dot.value],
                [row + 0.72],
                marker,
                markersize=7,
                color=colour,
                markerfacecolor=face,
                clip_on=False,
            )
            place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
            backing = {
                "facecolor": COLOURS["card"],
                "edgecolor": "none",
                "pad": 1.0,
            }  # the grid stays off the letters
            axes.text(0, row + 0.3, shorten(dot.name, 58 - len(dot.text)), ha="left", bbox=backing, **place)
            axes.text(
                1,
                row + 0.3,
                dot.text,
                ha="right",
                color=COLOURS["muted"],
                fontsize=FONT - 1,
                bbox=backing,
                **place,
            )

    return inline_svg(draw, height=height, prefix=prefix, label=label) if dots else ""


def calibration_svg(calibration: Mapping[str, Any], *, prefix: str, label: str) -> str:
    """Accuracy against confidence in each bin; the diagonal is perfect; the bars below count predictions."""
    columns = [[finite(v) for v in calibration.get(key) or []] for key in ("confidence", "accuracy", "count")]
    columns[2] = columns[2] or [1.0] * len(columns[0])
    bins = [(c, a, n) for c, a, n in zip(*columns, strict=False) if c is not None and a is not None and n]
    if not bins:
        return ""
    confidence, accuracy, counts = zip(*bins, strict=True)

    def draw(figure: "Figure") -> None:
        figure.set_layout_engine("constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=COLOURS["muted"], linestyle=(0, (4, 3)), linewidth=1)
        upper.plot(confidence, accuracy, "o-", color=COLOURS["model"], markersize=6, linewidth=1.6, clip_on=False)
        upper.set_ylim(0, 1)
        upper.set_xlim(0, 1)
        upper.set_ylabel("accuracy")
        upper.grid()
        lower.bar(confidence, counts, width=0.6 / max(len(columns[0]), 10), color=COLOURS["model"])
        lower.set_ylabel("count")
        lower.set_xlabel("confidence in the predicted class")
        _whole_numbers(lower, ticks=3)

    return inline_svg(draw, height=310, prefix=prefix, label=label)


def bars_svg(bars: Sequence[tuple[str, float, str]], *, prefix: str, label: str) -> str:
    """Horizontal bars: name, value, and the text that stands at its end."""
    pitch = 20
    height = pitch * len(bars) + 8
    largest = max((value for _, value, _ in bars), default=0.0)
    names = [shorten(plain(name), 20) for name, _, _ in bars]
    left = min(0.37, (16 + 6.5 * max((len(name) for name in names), default=0)) / WIDTH)

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes((left, 4 / height, 0.74 - left, pitch * len(bars) / height))
        axes.axis("off")
        axes.set_xlim(0, largest or 1)
        axes.set_ylim(len(bars), 0)
        beside: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
        for row, (_, value, text) in enumerate(bars):
            axes.barh(row + 0.5, value, height=0.66, color=COLOURS["model"])
            axes.annotate(names[row], (0, row + 0.5), (-6, 0), ha="right", **beside)
            axes.annotate(text, (value, row + 0.5), (5, 0), color=COLOURS["muted"], **beside)

    return inline_svg(draw, height=height, prefix=prefix, label=label) if bars else ""


def histogram_svg(edges: Sequence[float], counts: Sequence[float], *, axis: str, prefix: str, label: str) -> str:
    """Counts between `edges` (one more than counts), a bar of the same width each, since bins may widen."""
    if not counts or len(edges) != len(counts) + 1:
        return ""

    def draw(figure: "Figure") -> None:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        places = range(len(edges))
        axes.bar(places[:-1], counts, width=0.94, align="edge", color=COLOURS["model"])
        axes.set_xticks(*zip(*[(i, f"{edges[i]:,g}") for i in places[:: -(-len(edges) // 9)]], strict=True))
        _whole_numbers(axes)
        axes.grid(axis="y")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(axis)
        axes.set_ylabel("users")

    return inline_svg(draw, height=200, prefix=prefix, label=label)


def _whole_numbers(axes: "Axes", ticks: int = 5) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
