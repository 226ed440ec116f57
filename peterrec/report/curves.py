"""Learning curves: training loss and a validation metric over epochs, a line for each seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from peterrec.report.reading import finite, label_of, lower_is_better, plain
from peterrec.report.svg import COLOURS, inline_svg, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Entries = Sequence[Mapping[str, Any]]
SERIES = ("model", "baseline", "control", "ceiling", "ink", "muted")
OTHERS = "\n"  # opens the name of a group that stands for several; no model's name holds it
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))


@dataclass(frozen=True)
class Line:
    """One panel's line of one seed: `x` epochs (or steps), `y` values, both (N,)."""

    group: str
    x: list[float]
    y: list[float]


Panels = list[tuple[str, str | None, list[Line]]]


def validation_metric(curves: Entries, main: str | None) -> str | None:
    """The validation metric to draw: the main one where it was watched, or the first that was."""
    watched = [name for entry in curves for name in entry.get("validation") or {}]
    return main if main in watched else watched[0] if watched else None


def _runs(curves: Entries) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The entries of each run, keyed by (name, seed); either may be empty."""
    runs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in curves:
        name, seed = entry.get("name"), entry.get("seed")
        key = ("" if name is None else plain(name), "" if seed is None else f"seed {seed}")
        runs.setdefault(key, []).append(entry)
    return runs


def _panel(curves: Entries, clock: str, metric: str | None) -> list[Line]:
    """The lines of the loss (`metric` None) or of a validation metric, without values that are not finite."""
    runs = _runs(curves)
    by_name = len({name for name, _ in runs}) > 1  # several models: a colour for each, its seeds alike
    lines = []
    for (name, seed), entries in runs.items():
        values = [e.get("loss") if metric is None else (e.get("validation") or {}).get(metric) for e in entries]
        pairs = [(finite(e.get(clock)), finite(value)) for e, value in zip(entries, values, strict=True)]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if known:
            lines.append(Line(name if by_name else seed, [x for x, _ in known], [y for _, y in known]))
    return lines


def _groups(panels: Panels) -> list[str]:
    return list(dict.fromkeys(line.group for _, _, lines in panels for line in lines))


def _told_apart(panels: Panels) -> tuple[Panels, list[str]]:
    """The panels with no more groups than there are colours, and these groups.

    Of more, the first and the best of the last panel keep their names, the others become one.
    """
    groups = _groups(panels)
    if len(groups) <= len(SERIES):
        return panels, groups
    _, metric, lines = panels[-1]
    sign = -1 if metric is None or lower_is_better(metric) else 1
    best = {group: max((sign * y for line in lines if line.group == group for y in line.y), default=-math.inf)
            for group in groups}  # fmt: skip
    ranked = sorted(groups[1:], key=lambda group: -best[group])[: len(SERIES) - 2]
    named = [group for group in groups if group in (groups[0], *ranked)]
    crowd = f"{OTHERS}{len(groups) - len(named)} others"
    return [
        (title, name, [line if line.group in named else replace(line, group=crowd) for line in lines])
        for title, name, lines in panels
    ], [*named, crowd]


def curves_svg(curves: Entries, *, metric: str | None, prefix: str, label: str) -> str:
    """Loss and `metric` on validation over epochs; a star marks the best epoch of each seed.

    Up to six seeds (or models) have a colour each. Of more models, the first and those with the best figures have one,
    and the others share a quiet one. Where epochs were logged more than once, steps count.
    """
    repeated = any(len({e.get("epoch") for e in entries}) < len(entries) for entries in _runs(curves).values())
    clock = "step" if repeated or all(entry.get("epoch") is None for entry in curves) else "epoch"
    watched = [("training loss", None), *([(f"validation {label_of(metric)}", metric)] if metric else [])]
    panels: Panels = [(title, name, lines) for title, name in watched if (lines := _panel(curves, clock, name))]
    several = len({name for name, _ in _runs(curves)}) > 1
    panels, groups = _told_apart(panels) if several else (panels, _groups(panels))
    coloured = len(groups) <= len(SERIES)
    looks: dict[str, dict[str, Any]] = {
        group: {"color": COLOURS[SERIES[i]], "linestyle": DASHES[i]} if coloured else {"color": COLOURS["model"]}
        for i, group in enumerate(groups)
    }
    legend_rows = -(-len(groups) // 2) if coloured and len(groups) > 1 else 0
    crowd = next((group for group in groups if group.startswith(OTHERS)), None)
    if crowd is not None:
        looks[crowd] = {"color": COLOURS["line"], "linestyle": "-", "zorder": 1.5}

    def draw(figure: "Figure") -> None:
        from matplotlib.lines import Line2D
        from matplotlib.ticker import MaxNLocator

        figure.set_layout_engine("constrained")
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, name, lines) in zip(grid, panels, strict=True):
            axes.set_title(shorten(title, 48), loc="left")
            axes.grid()
            for line in lines:
                marker = "o" if len(line.x) == 1 else ""
                alpha = 1 if len(lines) <= len(SERIES) or line.group == crowd else 0.6
                axes.plot(line.x, line.y, marker=marker, linewidth=1.6, alpha=alpha, **looks[line.group])
                if name is not None and line.group != crowd:
                    best = line.y.index(min(line.y) if lower_is_better(name) else max(line.y))
                    colour, edge = looks[line.group]["color"], COLOURS["card"]
                    place = ([line.x[best]], [line.y[best]])
                    axes.plot(*place, "*", color=colour, markersize=12, markeredgecolor=edge, zorder=5)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
            axes.margins(y=0.12)
        places = {x for _, _, lines in panels for line in lines for x in line.x}
        if len(places) == 1:  # the locator would put fractions of an epoch around it
            grid[-1].set_xticks([*places])
        grid[-1].set_xlabel(clock)
        if legend_rows:
            handles = [Line2D([], [], linewidth=1.6, **look) for look in looks.values()]
            names = [shorten(group.removeprefix(OTHERS) or "other", 24) for group in groups]
            columns = 3 if max(map(len, names)) < 12 else 2
            where = "outside lower center"
            figure.legend(handles, names, loc=where, ncols=columns, frameon=False, handlelength=2.6)

    height = 45 + 125 * len(panels) + 18 * legend_rows
    return inline_svg(draw, height=height, prefix=prefix, label=label) if panels else ""
