"""The forests of a page: the main figures of all results below each other, and the paired gains."""

from collections.abc import Mapping
from typing import Any

from peterrec.metrics.measure_name import MeasureName
from peterrec.report import gains, plots, reading
from peterrec.report.figure import capital, figure_html
from peterrec.report.reading import Metrics
from peterrec.report.resampling import resampled

ROLES = {"model": "● model", "control": "◇ control", "baseline": "□ baseline", "ceiling": "△ ceiling"}


def forests_html(metrics: Metrics) -> str:
    """The main metric of all results; of impressions, that of each output as well."""
    main = reading.main_metric(metrics)
    if main is None:
        return ""
    known = MeasureName.parse(main)
    names = [main]
    for name in reading.metric_names(metrics):
        other = MeasureName.parse(name)
        alike = known is not None and other is not None and (other.measure, other.domain) == (known.measure, None)
        names += [name] if alike and name != main else []
    return "".join(
        _forest(metrics, name, prefix="forest" if not place else f"forest-{place}") for place, name in enumerate(names)
    )


def gain_forest_html(metrics: Metrics) -> str:
    """The telling gains in the main metric."""
    metric = reading.main_metric(metrics)
    rows = gains.telling(metrics)
    of, over = ({reading.plain(gain[side]) for gain in rows} for side in ("of", "over"))
    heading = f"Gain in {reading.label_of(metric)}"
    name = "{of} over {over}"
    if len(over) == 1:  # what all rows share stands in the heading, so that names have room
        heading, name = f"{heading} over {min(over)}", "{of}"
    elif len(of) == 1:
        heading, name = f"{heading} of {min(of)}", "over {over}"
    named = [(name.format(of=gain["of"], over=gain["over"]), gain) for gain in rows]
    dots = [dot for text, gain in named if (dot := _dot(text, "model", gain, signed=True))]
    if not dots:
        return ""
    told = "; ".join(f"{dot.name} {dot.text}" for dot in dots)
    svg = plots.forest_svg(dots, prefix="gains", label=f"{heading}: {told}", zero=True)
    caption = "Paired gains with 95 % intervals; one across the thick line at 0 shows no difference."
    return figure_html(svg, caption, heading)


def _forest(metrics: Metrics, metric: str, *, prefix: str) -> str:
    rows = [(r.get("name", ""), r.get("role", "model"), reading.figure_of(r, metric)) for r in reading.results(metrics)]
    dots = [dot for row in rows if (dot := _dot(*row)) is not None]
    if len(dots) < 2:
        return ""
    name = reading.label_of(metric)
    told = "; ".join(f"{dot.name} {dot.text}" for dot in dots)
    svg = plots.forest_svg(dots, prefix=prefix, label=f"{name} with 95 % intervals: {told}")
    key = ", ".join(text for role, text in ROLES.items() if any(dot.role == role for dot in dots))
    return figure_html(svg, f"95 % intervals over {resampled(metrics)} ({key}).", capital(name))


def _dot(name: str, role: str, figure: Mapping[str, Any], *, signed: bool = False) -> plots.Dot | None:
    value = reading.finite(figure.get("value"))
    low, high = reading.finite(figure.get("low")), reading.finite(figure.get("high"))
    text = reading.estimate(figure, signed=signed)
    return None if value is None else plots.Dot(reading.plain(name), role, value, low, high, text)
