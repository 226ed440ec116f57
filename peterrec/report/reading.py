"""How `metrics.json` is read: figures as text, the best baseline, what a paired gain shows, the verdict."""

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

from peterrec.metrics.measure_name import MeasureName, measure_of

Metrics = Mapping[str, Any]

ABSENT = "–"
ACRONYMS = re.compile(r"\b(?:roc|g?auc|f1|n?dcg|hr|mrr|map|ctr|cvr|ctcvr|ctavr|ne|pcoc|rmse)\b")
LOWER_IS_BETTER = ("loss", "error", "ece", "nll", "ne", "brier", "perplexity", "entropy", "mae", "rmse")
VERDICT_MODELS = 4  # a paragraph, not a second table


def finite(value: object) -> float | None:
    """`value` as a float; None where it is absent, not a number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number_ = float(value)
    return number_ if math.isfinite(number_) else None


def plain(text: object) -> str:
    """`text` on one line without control characters (class names come from users' files)."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def number(value: object, *, signed: bool = False) -> str:
    """Three decimals, fewer from 10 on, or a dash where there is no finite value.

    >>> number(0.81), number(0.0101, signed=True), number(33.138), number(float("nan"))
    ('0.810', '+0.010', '33.14', '–')
    """
    known = finite(value)
    if known is None:
        return ABSENT
    decimals = 3 - sum(abs(known) >= bound for bound in (9.9995, 99.995, 999.95))
    text = f"{known:{'+' if signed else ''}.{decimals}f}"
    return text.replace("-", "") if text == "-0.000" and not signed else text


def label_of(metric: object) -> str:
    """A metric's name for people: "balanced accuracy" for `balanced_accuracy`, "CTR AUC (a)" for `ctr/auc/domain=a`."""
    known = MeasureName.parse(plain(metric))
    if known is not None:
        domain = f" ({known.domain})" * (known.domain is not None)
        return f"{label_of(known.output)} {label_of(known.measure)}{domain}"
    return ACRONYMS.sub(lambda match: match[0].upper(), plain(metric).replace("_", " "))


def interval(figure: Metrics, *, signed: bool = False) -> str:
    """`[low, high]` of a figure `{value, low, high}`, or an empty text."""
    low, high = figure.get("low"), figure.get("high")
    if finite(low) is None or finite(high) is None:
        return ""
    return f"[{number(low, signed=signed)}, {number(high, signed=signed)}]"


def estimate(figure: Metrics, *, signed: bool = False) -> str:
    """`value [low, high]`, without the interval where there is none."""
    return f"{number(figure.get('value'), signed=signed)} {interval(figure, signed=signed)}".strip()


def count(value: object) -> str:
    """A whole number with its thousands marked; a dash where there is none."""
    known = finite(value)
    return ABSENT if known is None else f"{known:,.0f}" if known == int(known) else f"{known:,.1f}"


def parameters(value: object) -> str:
    """A number of parameters: exact below ten millions, in millions from there."""
    known = finite(value)
    return count(value) if known is None or known < 1e7 else f"{known / 1e6:,.1f} M"


def percent(value: object) -> str:
    """A share in percent, three decimals at most.

    >>> percent(1.0), percent(0.00812)
    ('100%', '0.812%')
    """
    known = finite(value)
    return ABSENT if known is None else f"{100 * known:.3f}".rstrip("0").rstrip(".") + "%"


def size(value: object) -> str:
    """Bytes in the largest unit that fits, powers of 1000.

    >>> size(812), size(12_345), size(123_456_789)
    ('812 B', '12.3 kB', '123 MB')
    """
    known = finite(value)
    if known is None:
        return ABSENT
    units = ["B", "kB", "MB", "GB", "TB"]
    while known >= 999.5 and len(units) > 1:
        known /= 1000
        units.pop(0)
    return f"{known:,.{0 if units[0] == 'B' or known >= 99.95 else 1}f} {units[0]}"


def rate(value: object) -> str:
    """A learning rate, exactly: 0.002, 5e-05."""
    known = finite(value)
    return ABSENT if known is None else f"{known:.12g}"


def seconds(value: object) -> str:
    """Seconds, with a decimal below a hundred."""
    known = finite(value)
    return ABSENT if known is None else f"{known:,.{1 if known < 99.95 else 0}f}"


def results(metrics: Metrics) -> list[dict[str, Any]]:
    """The results, grouped as model, control, baseline, ceiling, each group in its own order."""
    order = {"model": 0, "control": 1, "baseline": 2, "ceiling": 3}
    found = [result for result in metrics.get("results") or [] if isinstance(result, dict)]
    return sorted(found, key=lambda result: order.get(str(result.get("role", "model")), 4))


def figure_of(result: Metrics, metric: str) -> dict[str, Any]:
    """The figure `{value, low, high}` of one metric; empty where it was not measured."""
    figure = (result.get("metrics") or {}).get(metric)
    return figure if isinstance(figure, dict) else {} if figure is None else {"value": figure}


def metric_names(metrics: Metrics) -> list[str]:
    """All measured metrics, the main one first, then in the order of the file."""
    names = list(dict.fromkeys(name for result in results(metrics) for name in result.get("metrics") or {}))
    main = metrics.get("metric")
    return sorted(names, key=lambda name: name != main)


def main_metric(metrics: Metrics) -> str | None:
    """The metric that the run was chosen by, or the first one measured."""
    names = metric_names(metrics)
    return names[0] if names else metrics.get("metric")


def lower_is_better(metric: str) -> bool:
    """Whether small values of `metric` are good (losses and errors)."""
    words = measure_of(metric).casefold().replace("_", " ").replace("-", " ").split()
    return any(word in LOWER_IS_BETTER for word in words)


def best(candidates: list[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """The result that is best by `metric` among those where it was measured."""
    sign = -1.0 if lower_is_better(metric) else 1.0
    scored = [(finite(figure_of(result, metric).get("value")), result) for result in candidates]
    known = [(sign * value, result) for value, result in scored if value is not None]
    return max(known, key=lambda pair: pair[0])[1] if known else None


def best_baseline(metrics: Metrics, metric: str) -> dict[str, Any] | None:
    """The strongest result of role "baseline" by `metric`."""
    return best([result for result in results(metrics) if result.get("role") == "baseline"], metric)


def gains(metrics: Metrics) -> list[dict[str, Any]]:
    """The paired gains that name what they compare."""
    rows = [gain for gain in metrics.get("gains") or [] if isinstance(gain, dict)]
    return [gain for gain in rows if gain.get("of") is not None and gain.get("over") is not None]


def gain_over_baseline(metrics: Metrics, name: object, metric: str) -> dict[str, Any] | None:
    """The paired gain of `name` over the baseline that is best by `metric`."""
    baseline = best_baseline(metrics, metric)
    if baseline is None:
        return None
    for gain in gains(metrics):
        if (gain.get("metric"), gain["of"], gain["over"]) == (metric, name, baseline.get("name")):
            return gain
    return None


def gain_over_reference(metrics: Metrics, name: object) -> dict[str, Any] | None:
    """The paired gain of `name` over the run's reference in the main metric."""
    reference, metric = metrics.get("reference"), main_metric(metrics)
    for gain in gains(metrics) if reference is not None else ():
        if (gain.get("metric", metric), gain["of"], gain["over"]) == (metric, name, reference):
            return gain
    return None


def notes(metrics: Metrics) -> list[str]:
    """What the run has to say of its own figures."""
    return [plain(note) for note in found] if isinstance(found := metrics.get("notes"), list) else []


def shows(gain: Metrics, metric: str | None = None) -> str:
    """What a paired gain shows: "better", "worse" ("differs" in PCOC), "no difference shown" where 0 is within its
    interval; "no interval" where it has none: then nothing is claimed."""
    low, high = finite(gain.get("low")), finite(gain.get("high"))
    if low is None or high is None:
        return "no interval"
    if low <= 0 <= high:
        return "no difference shown"
    name = measure_of(str(gain.get("metric") or metric or ""))
    if name == "pcoc":  # 1 is right: more is neither better nor worse
        return "differs"
    return "better" if (low > 0) != lower_is_better(name) else "worse"


def proven(metrics: Metrics, name: object, metric: str) -> bool:
    """Whether `name` beats the best baseline by `metric` with a paired interval that excludes 0."""
    gain = gain_over_baseline(metrics, name, metric)
    return gain is not None and shows(gain, metric) == "better"


def _shown(metrics: Metrics, result: Metrics, metric: str) -> str:
    gain = gain_over_baseline(metrics, result.get("name"), metric)
    if gain is None:
        return "not compared user by user, so nothing is claimed"
    shown = shows(gain, metric)
    who = f"{plain(result.get('name'))} is " if shown in ("better", "worse") else ""
    return f"{who}{shown} (gain {estimate(gain, signed=True)})"


def verdict(metrics: Metrics) -> str:
    """One paragraph in plain language: the models, best first, against the best baseline; the ceiling."""
    metric = main_metric(metrics)
    models = [result for result in results(metrics) if result.get("role", "model") == "model"]
    ranked: list[dict[str, Any]] = []
    while metric is not None and (leader := best([m for m in models if m not in ranked], metric)) is not None:
        ranked.append(leader)
    if metric is None or not ranked:
        return "No model was measured in this run."

    def told(result: Metrics, between: str = " ") -> str:
        return f"{plain(result.get('name', 'the model'))}{between}{estimate(figure_of(result, metric))}"

    reaches, baseline = f" reaches {label_of(metric)} ", best_baseline(metrics, metric)
    named, more = ranked[:VERDICT_MODELS], len(ranked) - VERDICT_MODELS
    if baseline is None:
        text = "; ".join(told(result, reaches) for result in named) + "; no baseline was measured beside it."
    elif len(ranked) == 1:
        shown = _shown(metrics, ranked[0], metric)
        text = f"{told(ranked[0], reaches)}; {told(baseline, ', the best baseline, ')}: {shown}."
    else:
        claims = "; ".join(f"{told(result)}: {_shown(metrics, result, metric)}" for result in named)
        text = f"The best baseline, {told(baseline, ',' + reaches)}. Against it, {claims}."
    text += f" {more} more in the table." if more > 0 else ""
    for result in results(metrics):
        if result.get("role") == "ceiling" and figure_of(result, metric):
            text += f" The ceiling, {told(result, ', is ')}."
    return text
