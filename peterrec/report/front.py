"""The Pareto front of a fusion: what one metric costs another, with the chosen point and the single predictions."""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from peterrec.report import reading
from peterrec.report.figure import capital, figure_html
from peterrec.report.reading import Metrics, finite
from peterrec.report.svg import COLOURS, FONT, inline_svg, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 290
LONGEST = 20  # letters of a name
Place = tuple[float, float]


def front_html(metrics: Metrics) -> str:
    """The front by the first two goals of `metrics["fusion"]`; nothing where there is one."""
    fusion = metrics.get("fusion")
    if not isinstance(fusion, Mapping) or len(goals := _goals(fusion)) < 2:
        return ""
    front = [found for one in fusion.get("front") or [] if (found := _place(one)) is not None]
    chosen = _place(fusion.get("chosen"))
    if not front or chosen is None:
        return ""
    singles = [
        (reading.plain(one.get("name", "")), found)
        for one in fusion.get("singles") or []
        if isinstance(one, Mapping) and (found := _place(one)) is not None
    ]
    tried = [found for one in fusion.get("tried") or [] if (found := _place({"values": one})) is not None]
    x, y = (capital(reading.label_of(goal)) for goal in goals[:2])
    told = "; ".join(
        f"{name} {reading.number(a)} {reading.number(b)}" for name, (a, b) in [("chosen", chosen), *singles]
    )

    def draw(figure: "Figure") -> None:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.margins(0.12)
        axes.grid()
        axes.plot(*_columns(tried), ".", color=COLOURS["muted"], markersize=3, alpha=0.5)
        by_x = sorted(front)
        line = "o-" if len(goals) == 2 else "o"  # by more goals the front is no line
        axes.plot(*_columns(by_x), line, color=COLOURS["model"], markersize=4, linewidth=1.2)
        for name, place in singles:
            axes.plot(*place, "s", color=COLOURS["baseline"], markerfacecolor=COLOURS["card"], markersize=7)
            _name(axes, name, place, COLOURS["baseline"], up=-1)
        axes.plot(*chosen, "*", color=COLOURS["control"], markersize=13, zorder=5)
        _name(axes, "chosen", chosen, COLOURS["control"], up=1)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.locator_params(nbins=5)

    label = f"{y} against {x} on the rows that tune: {told}"
    svg = inline_svg(draw, height=HEIGHT, prefix="front", label=label)
    more = f" Of {len(goals)} metrics the first two are drawn, so that some of the front lies inside." * (
        len(goals) > 2
    )
    caption = (
        f"On the rows that tune: all {len(tried)} fusions tried (dots), those that no other beats by every metric "
        f"(blue), the chosen one (star), and the single predictions (□).{more}"
    )
    return figure_html(svg, caption, f"{y} against {x}")


def weights_html(metrics: Metrics) -> str:
    """The formula in words."""
    fusion = metrics.get("fusion")
    if not isinstance(fusion, Mapping):
        return ""
    return f"<pre><code>score = {escape(reading.plain(fusion.get('formula', '')))}</code></pre>"


def _name(axes: Any, name: str, place: Place, colour: str, *, up: int) -> None:
    right = place[0] > sum(axes.get_xlim()) / 2  # names stay inside
    axes.annotate(
        shorten(name, LONGEST), place, (-8 if right else 8, 9 * up), textcoords="offset points", color=colour,
        ha="right" if right else "left", va="center", fontsize=FONT - 1,
    )  # fmt: skip


def _goals(fusion: Mapping[str, Any]) -> list[str]:
    return [str(goal.get("metric")) for goal in fusion.get("goals") or [] if isinstance(goal, Mapping)]


def _place(one: Any) -> Place | None:
    values = one.get("values") if isinstance(one, Mapping) else None
    if not isinstance(values, list) or len(values) < 2:
        return None
    first, second = finite(values[0]), finite(values[1])
    return None if first is None or second is None else (first, second)


def _columns(places: list[Place]) -> tuple[list[float], list[float]]:
    return [x for x, _ in places], [y for _, y in places]
