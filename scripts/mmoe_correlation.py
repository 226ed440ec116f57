"""Does sharing hurt where tasks differ, and do gates help?  `python scripts/mmoe_correlation.py OUT`

The synthetic experiment of MMoE (Ma et al., KDD 2018, sections 3.2, 3.3 and 4): two regressions whose relation is set
by the cosine p of their weight vectors,

    w_1 = c·u_1,   w_2 = c·(p·u_1 + √(1 − p²)·u_2),   u_1 ⊥ u_2 of length 1,   x ~ N(0, I)
    y_k = w_k·x + Σ_i sin(α_i·w_k·x + β_i) + ε,       ε ~ N(0, .01)

learned by a shared bottom, by experts under one gate (OMoE) and by experts under a gate a task (MMoE): 8 experts of
16 channels, towers of 8, and widths of the other two with which all have as many parameters. Here c = 1, α_i = i, and β
is drawn, like u, x and all weights, for each seed; all systems see the same data of a seed. Every step takes a new
batch. Each system has, at each p, the learning rate with which its squared error on 4,096 validation rows is lowest in
the end; the figures are of 4,096 other rows, where noise alone is .01. Intervals are 95 % t intervals over seeds, of
differences within a seed for gains and rises. Writes OUT/mmoe_correlation.json and .svg, and prints tables.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from correlated_tasks import SYSTEMS, Plan, equal_widths, parameters_of, train
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from peterrec.atomic import atomic_file
from peterrec.report.svg import COLOURS, inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOUR = {"shared_bottom": COLOURS["baseline"], "omoe": COLOURS["control"], "mmoe": COLOURS["model"]}
DASH = {"shared_bottom": "--", "omoe": ":", "mmoe": "-"}


def interval(values: NDArray[np.float64]) -> dict[str, float | None]:
    """The mean over seeds (S,) with its 95 % t interval; without one for a single seed."""
    mean = float(values.mean())
    if len(values) < 2:
        return {"value": mean, "low": None, "high": None}
    half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return {"value": mean, "low": mean - half, "high": mean + half}


def measure(plan: Plan, console: Console) -> dict[str, Any]:
    """All systems at all correlations, with the gains over the shared bottom and the rises as p falls."""
    widths = equal_widths(plan.channels)
    results: list[dict[str, Any]] = []
    final: dict[tuple[str, float], NDArray[np.float64]] = {}
    for system in SYSTEMS:
        begin = time.perf_counter()
        runs = [train(system, width=widths[system], rate=rate, plan=plan) for rate in plan.learning_rates]
        console.print(f"{system}: {time.perf_counter() - begin:.0f} s")
        for place, correlation in enumerate(plan.correlations):
            chosen = min(range(len(runs)), key=lambda run: runs[run]["validation"][place, :, -1].mean())
            run = runs[chosen]
            final[system, correlation] = run["test"][place, :, -1]
            results.append(
                {
                    "system": system,
                    "correlation": correlation,
                    "label_correlation": float(run["label_correlation"][place].mean()),
                    "parameters": parameters_of(system, width=widths[system], channels=plan.channels),
                    "width": widths[system],
                    "learning_rate": plan.learning_rates[chosen],
                    "error": interval(final[system, correlation]) | {"per_seed": final[system, correlation].tolist()},
                    "curve": {"step": run["step"].tolist(), "error": run["test"][place].mean(0).tolist()},
                }
            )
    gains = [
        {"of": system, "over": "shared_bottom", "correlation": correlation}
        | interval(final["shared_bottom", correlation] - final[system, correlation])
        for system in SYSTEMS[1:]
        for correlation in plan.correlations
    ]
    closest = max(plan.correlations)
    rises = [
        {"of": system, "from": closest, "to": correlation}
        | interval(final[system, correlation] - final[system, closest])
        for system in SYSTEMS
        for correlation in plan.correlations
        if correlation != closest
    ]
    return {"setting": asdict(plan), "results": results, "gains": gains, "rises": rises}


def picture(found: dict[str, Any]) -> str:
    """Curves at some correlations, and below them the errors at the end over the correlation, as an SVG file."""
    correlations, steps = found["setting"]["correlations"], found["setting"]["steps"]
    chosen = sorted({correlations[0], correlations[len(correlations) // 2], correlations[-1]})
    results = {(one["system"], one["correlation"]): one for one in found["results"]}
    rises = {(one["of"], one["to"]): one for one in found["rises"]}

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        margins = {"left": 0.14, "right": 0.98, "top": 0.94, "bottom": 0.17}
        upper, lower = figure.add_gridspec(2, 1, height_ratios=(1, 1.3), hspace=0.5, **margins)
        first, places = None, upper.subgridspec(1, len(chosen))
        for place, p in enumerate(chosen):
            panel = figure.add_subplot(places[0, place], sharey=first)
            for system in SYSTEMS:
                curve = results[system, p]["curve"]
                panel.plot(curve["step"], curve["error"], DASH[system], color=COLOUR[system], linewidth=1.4)
            if first is None:
                first = panel
                panel.set_ylabel("squared error")
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                panel.yaxis.set_minor_locator(NullLocator())
            panel.tick_params(labelleft=panel is first)
            panel.set_title(f"p = {p:g}")
            panel.set_xticks([0, steps], ["0", f"{steps:,} steps"], ha="right")
            panel.grid(axis="y")
        below = lower.subgridspec(1, 2, wspace=0.45)
        error, rise = (figure.add_subplot(below[0, place]) for place in range(2))
        for place, system in enumerate(SYSTEMS):
            ends = [results[system, p]["error"]["value"] for p in correlations]
            error.plot(correlations, ends, DASH[system], marker="o", color=COLOUR[system], label=system)
            x = [p + 0.006 * (place - 1) for p in correlations[:-1]]  # the intervals stay apart
            values = [rises[system, p] for p in correlations[:-1]]
            rise.plot(x, [v["value"] for v in values], DASH[system], marker="o", color=COLOUR[system])
            for at, value in zip(x, values, strict=True):
                if value["low"] is not None:
                    rise.plot([at, at], [value["low"], value["high"]], color=COLOUR[system], linewidth=1.4)
        rise.axhline(0, color=COLOURS["ink"], linewidth=1)
        for panel, title in ((error, "error at the end"), (rise, f"its rise from p = {correlations[-1]:g}")):
            panel.set_title(title)
            panel.set_xlabel("p")
            panel.grid(axis="y")
        figure.legend(loc="lower center", ncols=len(SYSTEMS), frameon=False)

    svg = inline_svg(draw, height=400, prefix="mmoe", label="Squared errors of three systems by task correlation")
    for name, colour in COLOURS.items():  # a file of its own has no style sheet
        svg = svg.replace(f"var(--{name})", colour)
    style = f'font-family="sans-serif" style="background: {COLOURS["card"]}"'
    return svg.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" {style} ', 1) + "\n"


def shown(value: dict[str, Any]) -> str:
    """A figure with its interval."""
    text = f"{value['value']:.4f}"
    return text if value["low"] is None else f"{text} ({value['low']:.4f} to {value['high']:.4f})"


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line, measures, prints, and writes OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT", help="folder for mmoe_correlation.json and .svg")
    default = Plan()
    parser.add_argument("--correlations", type=float, nargs="+", default=default.correlations, help="the cosines p")
    parser.add_argument("--seeds", type=int, default=default.seeds, help="repetitions")
    parser.add_argument("--steps", type=int, default=default.steps, help="of Adam, each on a new batch")
    parser.add_argument(
        "--learning-rates", type=float, nargs="+", default=default.learning_rates, help="to choose from"
    )
    parser.add_argument("--batch", type=int, default=default.batch, help="rows of a step")
    parser.add_argument("--channels", type=int, default=default.channels, help="of the input")
    parser.add_argument("--sines", type=int, default=default.sines, help="in a label: how crooked it is")
    given = parser.parse_args(arguments)
    if not all(-1 <= p <= 1 for p in given.correlations):
        parser.error("--correlations are cosines: give numbers from -1 to 1.")
    for name, least in (("seeds", 1), ("steps", 1), ("batch", 1), ("channels", 2), ("sines", 0)):
        if getattr(given, name) < least:
            parser.error(f"--{name} {getattr(given, name)}: it must be at least {least}.")
    if not all(rate > 0 for rate in given.learning_rates):
        parser.error("--learning-rates must be above 0.")
    plan = Plan(
        correlations=tuple(sorted(set(given.correlations))),
        seeds=given.seeds,
        steps=given.steps,
        learning_rates=tuple(given.learning_rates),
        batch=given.batch,
        channels=given.channels,
        sines=given.sines,
    )
    console = Console()
    found = measure(plan, console)
    table = Table(
        "system", "p", "labels correlate", "parameters", "learning rate", "squared error", "below shared_bottom"
    )
    gains = {(gain["of"], gain["correlation"]): gain for gain in found["gains"]}
    for one in found["results"]:
        gain = gains.get((one["system"], one["correlation"]))
        table.add_row(
            one["system"],
            f"{one['correlation']:g}",
            f"{one['label_correlation']:.2f}",
            f"{one['parameters']:,}",
            f"{one['learning_rate']:g}",
            shown(one["error"]),
            "" if gain is None else shown(gain),
        )
    console.print(table)
    rises = Table("system", "from p", "to p", "rise of the error")
    for one in found["rises"]:
        rises.add_row(one["of"], f"{one['from']:g}", f"{one['to']:g}", shown(one))
    console.print(rises)
    for name, content in (("json", json.dumps(found, indent=2) + "\n"), ("svg", picture(found))):
        with atomic_file(given.output / f"mmoe_correlation.{name}") as temporary:
            temporary.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
