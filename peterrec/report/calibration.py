"""The calibration of a run on its page: of classes by confidence, of an impression's outputs by deciles."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peterrec.report import plots, reading
from peterrec.report.figure import figure_html, figures_html
from peterrec.report.reading import Metrics, finite
from peterrec.report.svg import COLOURS, inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEYS = ("predicted", "observed", "low", "high")


def calibration_html(metrics: Metrics) -> str:
    """The figures of `metrics["calibration"]`: one of the classes, or one for each output of impressions."""
    calibration = metrics.get("calibration")
    if not isinstance(calibration, Mapping):
        return ""
    if by_output(metrics):
        drawn = enumerate(calibration.items())
        return figures_html(*(_output(name, bins, prefix=f"calibration-{place}") for place, (name, bins) in drawn))
    what = "Accuracy against confidence"
    svg = plots.calibration_svg(calibration, prefix="calibration", label=f"{what}, by bins.")
    caption = f"{what}: on the dashed line the model is as often right as it claims; below it, it claims too much."
    return figure_html(svg, caption)


def by_output(metrics: Metrics) -> bool:
    """Whether the calibration is that of outputs, in bins, and not of classes."""
    calibration = metrics.get("calibration")
    return isinstance(calibration, Mapping) and any(
        isinstance(bins, list) and any(isinstance(one, Mapping) for one in bins) for bins in calibration.values()
    )


def deciles_svg(bins: Sequence[Mapping[str, Any]], *, prefix: str, label: str) -> str:
    """The share observed in each bin, with its interval, against the mean prediction; the diagonal is perfect."""
    known = []
    for one in bins:
        predicted, observed, low, high = (finite(one.get(key)) for key in KEYS)
        if predicted is not None and observed is not None:
            bare = low is None or high is None
            known.append((predicted, observed, *((observed, observed) if bare else (low, high))))
    if not known:
        return ""
    end = max(max(row) for row in known) * 1.04 or 1.0

    def draw(figure: "Figure") -> None:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.plot([0, end], [0, end], color=COLOURS["muted"], linestyle=(0, (4, 3)), linewidth=1)
        for predicted, _, low, high in known:
            axes.plot([predicted] * 2, [low, high], color=COLOURS["model"], linewidth=1.2, solid_capstyle="butt")
        axes.plot(
            [row[0] for row in known],
            [row[1] for row in known],
            "o-",
            color=COLOURS["model"],
            markersize=5,
            linewidth=1.2,
            clip_on=False,
        )
        axes.set_xlim(0, end)
        axes.set_ylim(0, end)
        axes.locator_params(nbins=5)
        axes.grid()
        axes.set_xlabel("predicted")
        axes.set_ylabel("observed")

    return inline_svg(draw, height=270, prefix=prefix, label=label)


def _output(name: str, bins: Any, *, prefix: str) -> str:
    if not isinstance(bins, list):
        return ""
    known = [one for one in bins if isinstance(one, Mapping)]
    told = "; ".join(f"{reading.number(one.get('predicted'))} {reading.number(one.get('observed'))}" for one in known)
    output = reading.label_of(name)
    rows = sum(reading.finite(one.get("rows")) or 0 for one in known)
    svg = deciles_svg(known, prefix=prefix, label=f"{output}, predicted and observed share by deciles: {told}")
    caption = (
        f"Observed against predicted share in {len(known)} bins by rising prediction, of {reading.count(rows)} rows; "
        "below the dashed line the model claims too much. Wilson 95 % intervals, as if rows were independent."
    )
    return figure_html(svg, caption, output)
