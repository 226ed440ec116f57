"""The page of a run: one self-contained HTML file, without scripts and without anything from outside."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata, resources
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from peterrec.report import curves, gains, reading, tables
from peterrec.report.calibration import by_output, calibration_html
from peterrec.report.confusion import confusion_html
from peterrec.report.figure import capital, figure_html, figures_html
from peterrec.report.forests import forests_html, gain_forest_html
from peterrec.report.front import front_html, weights_html
from peterrec.report.log_summary import distributions, summary_html, summary_verdict
from peterrec.report.output_tables import domains_html, outputs_html
from peterrec.report.outputs import measured_outputs
from peterrec.report.reading import Metrics
from peterrec.report.trade_off import Point, trade_off_svg

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # nothing is loaded from anywhere
PACKAGES = (
    "peterrec",
    "torch",
    "transformers",
    "peft",
    "numpy",
    "datasets",
    "pyarrow",
    "duckdb",
    "scikit-learn",
)


def report_html(
    metrics: dict[str, Any],
    *,
    title: str,
    settings: dict[str, Any],
    usage: list[str],
    summary: dict[str, Any] | None = None,
) -> str:
    """The page as text: verdict, protocol, results, gains, curves, errors, data, use, settings, versions.

    `metrics` is the content of metrics.json, `settings` the resolved settings of the run, `usage` commands
    that load or apply what the run made, `summary` the prepare stage's. What is absent is left out. Absolute
    paths in `settings` are cut to their last part: a page that is passed on shall not describe a machine.
    """
    said = reading.verdict(metrics) if metrics.get("results") else summary_verdict(summary or {})
    said = said or reading.verdict(metrics)
    protocol, confusion = metrics.get("protocol"), _confusion(metrics)
    outputs = measured_outputs(metrics)
    results = outputs_html(metrics) if outputs else tables.results_html(metrics)
    sections = [
        f'<section class="verdict" aria-label="Verdict"><p>{escape(said)}</p></section>',
        _section("How it was measured", f"<p>{escape(reading.plain(protocol))}</p>" if protocol else ""),
        _section(
            "Results",
            results + figures_html(forests_html(metrics), gain_forest_html(metrics), _trade_off(metrics)),
        ),
        _section("Fusion", weights_html(metrics) + front_html(metrics)),
        _section("By domain", domains_html(metrics) if outputs else ""),
        _section("Gains", gains.gains_html(metrics), half=True),
        _section("Learning curves", _curves(metrics), half=True),
        _section("Confusion matrix", confusion, half="confusion many" not in confusion),
        _section("Calibration", calibration_html(metrics), half=not by_output(metrics)),
        _section("Data", (summary_html(summary) if summary else "") + _distributions(metrics, summary)),
        _section("Use it", "".join(f"<pre><code>{escape(line)}</code></pre>" for line in usage)),
        _details("Settings", flat_settings(settings)),
        _details("Environment", environment(metrics)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(reading.plain(title))}</title><style>{_style()}</style></head>\n<body><main>"
        f'<h1>{escape(reading.plain(title))}</h1><p class="facts">{escape(_facts(metrics))}</p>\n'
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def flat_settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nested settings as ("training.epochs", "3") pairs, absolute paths cut to their last part."""
    pairs: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            pairs += [(f"{reading.plain(key)}.{inner}", text) for inner, text in flat_settings(value)]
        else:
            pairs.append((reading.plain(key), _setting(value)))
    return pairs


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(_setting(part) for part in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{reading.plain(key)} = {_setting(part)}" for key, part in value.items()) or "none"
    text = reading.plain(value)
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute() and kind(text).name:
            return f"…/{kind(text).name}"
    return text


def environment(metrics: Metrics) -> list[tuple[str, str]]:
    """Versions: those that the run recorded in `metrics["environment"]`, else those at hand; no hosts."""
    recorded = metrics.get("environment")
    if isinstance(recorded, Mapping) and recorded:
        return flat_settings(recorded)
    import platform

    versions = [
        ("Python", platform.python_version()),
        ("system", f"{platform.system()} {platform.machine()}"),
    ]
    for package in PACKAGES:
        try:
            versions.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:  # run from a checkout that was never installed
            versions.append((package, "not installed"))
    return versions


def _style() -> str:
    return resources.files("peterrec.report").joinpath("style.css").read_text(encoding="utf-8")


def _facts(metrics: Metrics) -> str:
    seeds = metrics.get("seeds") or []
    facts = [f"{name}: {metrics[name]}" for name in ("stage", "task") if metrics.get(name) is not None]
    facts += [f"{'seeds' if len(seeds) > 1 else 'seed'}: {', '.join(map(str, seeds))}"] if seeds else []
    return " · ".join(map(reading.plain, facts))


def _section(heading: str, body: str, *, half: bool = False) -> str:
    name = heading.lower().replace(" ", "-")
    kind = ' class="half"' if half else ""  # two halves stand beside each other where the window is wide
    return f'<section{kind} aria-labelledby="{name}"><h2 id="{name}">{heading}</h2>{body}</section>' if body else ""


def _details(heading: str, pairs: Sequence[tuple[str, str]]) -> str:
    table = tables.pairs_html(pairs, heading) if pairs else ""
    return f"<details><summary>{heading}</summary>{table}</details>" if table else ""


def _trade_off(metrics: Metrics) -> str:
    metric = reading.main_metric(metrics)
    if metric is None or metrics.get("stage") != "compare":
        return ""
    points = []
    for result in reading.results(metrics):
        figure = reading.figure_of(result, metric)
        trained, value = reading.finite(result.get("trained_parameters")), reading.finite(figure.get("value"))
        if trained and value is not None:
            ends = reading.finite(figure.get("low")), reading.finite(figure.get("high"))
            points.append(Point(reading.plain(result.get("name", "")), str(result.get("role")), trained, value, *ends))
    name = reading.label_of(metric)
    baseline = reading.best_baseline(metrics, metric) or {}
    level = reading.finite(reading.figure_of(baseline, metric).get("value"))
    line = None if level is None else (reading.plain(baseline.get("name", "")), level)
    told = "; ".join(f"{p.name}: {reading.parameters(p.parameters)}, {reading.number(p.value)}" for p in points)
    svg = trade_off_svg(points, line=line, prefix="trade-off", label=f"{name} against trained parameters: {told}")
    below = "; the dashed line is the best baseline" if line else ""
    caption = f"{capital(name)} with 95 % intervals over the parameters that train, the head included{below}."
    return figure_html(svg, caption, f"{capital(name)} against trained parameters")


def _curves(metrics: Metrics) -> str:
    entries = [entry for entry in metrics.get("curves") or [] if isinstance(entry, Mapping)]
    metric = curves.validation_metric(entries, reading.main_metric(metrics))
    told = f"Training loss{f' and validation {reading.label_of(metric)}' if metric else ''} while training"
    svg = curves.curves_svg(entries, metric=metric, prefix="curves", label=f"{told}.")
    return figure_html(svg, told + ("; a star marks the best epoch." if metric else "."))


def _confusion(metrics: Metrics) -> str:
    table = confusion_html(metrics.get("confusion") or {})
    note = "Each row holds the users of one true class; the shade is their share, the outlined cells are right."
    return f'{table}<p class="note">{note}</p>' if table else ""


def _distributions(metrics: Metrics, summary: Mapping[str, Any] | None) -> str:
    found = list(distributions(metrics.get("histograms") or {}, "", prefix="histogram", bare=True))
    found += distributions(summary or {}, "", prefix="summary", bare=False)
    return figures_html(*(figure_html(svg, caption, capital(title)) for title, svg, caption in found))
