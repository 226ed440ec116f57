"""The README.md of a run's folder: what it is, how well it does, how to use it, and what it is not for."""

from typing import Any

from peterrec.report import reading
from peterrec.report.confusion import class_recalls
from peterrec.report.gains import telling
from peterrec.report.outputs import (
    SHOWN,
    columns,
    lines,
    meaning,
    measured_against,
    measured_domains,
    measured_outputs,
)
from peterrec.report.page import flat_settings
from peterrec.report.resampling import interval_note, resampled
from peterrec.report.tables import LEGEND, MARK, Cell, Row, cost_columns, result_rows

PROVEN = f"\\{MARK}"  # escaped, or Markdown would read it as emphasis
WHAT = {
    "prepare": "A prepared interaction log: item sequences of users on disk as a `datasets.DatasetDict`.",
    "pretrain": "A user encoder, pretrained on sequences of items without labels.",
    "finetune": "An adapter and a head for one task, on a frozen, pretrained user encoder.",
    "evaluate": "An evaluation of a trained run.",
    "compare": "A comparison of adapters on one task and one split.",
    "fuse": "One score from several predictions, to order impressions by: the weights, and what they are worth.",
}
OF_IMPRESSIONS = {
    "finetune": "Probabilities of what follows an impression (click, conversion, …): experts and heads, on a frozen "
    "user encoder where one was given.",
    "compare": "A comparison of models of what follows an impression (click, conversion, …), on the same rows.",
}
INTENDED = {
    "prepare": "Training and evaluating encoders. The sequences are records of people: keep and share them as such.",
    "pretrain": "A starting point for adapters, and recommendation of items from its own vocabulary. Items "
    "that it has not seen are left out of a history.",
    "finetune": "Aggregate statistics and recommendation for populations like the one it was measured on.",
}
PRIVACY = (
    "Attributes that are predicted from behaviour (gender, age, occupation, …) are sensitive personal data, "
    "also where the people concerned never stated them, and vectors of users let others predict them. Ask "
    "for consent or have another lawful basis, keep predictions no longer than needed, and do not publish "
    "them by person.",
    "Before any use, measure and report the errors of each subgroup that the use concerns: a good average "
    "can hide a group for which the model is mostly wrong. Labels reflect the categories of those who "
    "collected them.",
    "Not for decisions about individuals: no eligibility, pricing, employment, credit, housing, policing or "
    "moderation on the strength of these predictions.",
)


def card_markdown(metrics: dict[str, Any], *, title: str, settings: dict[str, Any], usage: list[str]) -> str:
    """The text of the card, as Markdown without raw HTML; what `metrics` does not hold is left out."""
    stage = str(metrics.get("stage", ""))
    blocks = [f"# {_text(title)}"]
    what = {**WHAT, **(OF_IMPRESSIONS if measured_outputs(metrics) else {})}
    blocks += [what[stage]] if stage in what else []
    blocks += [_text(reading.verdict(metrics))] if metrics.get("results") else []
    if metrics.get("protocol"):
        blocks += ["## How it was measured", _text(metrics["protocol"])]
    blocks += _results(metrics)
    blocks += _classes(metrics)
    if usage:
        blocks += ["## Use it", _fenced("\n".join(usage))]
    if settings:
        rows = [[_text(name), _text(value)] for name, value in flat_settings(settings)]
        blocks += ["## Settings", _table(["setting", "value"], rows, texts=2)]
    if stage in INTENDED:
        blocks += ["## Intended use", INTENDED[stage]]
    blocks += ["## Privacy and limits", *PRIVACY]
    return "\n\n".join(blocks) + "\n"


def _results(metrics: dict[str, Any]) -> list[str]:
    rows, outputs = result_rows(metrics), measured_outputs(metrics)
    if not rows:
        return []
    table = _by_output(metrics) if outputs else _by_metric(metrics)
    notes = interval_note(metrics)
    if any(cell.proven for row in rows for cell in row.cells):
        notes += f" {LEGEND.replace(MARK, PROVEN)}"
    said = [meaning(metrics), *measured_against(metrics)] if outputs else []
    blocks = ["## Results", table, " ".join([notes, *map(_text, [*said, *reading.notes(metrics)])])]
    if outputs and measured_domains(metrics):
        blocks += ["## By domain", _by_domain(metrics)]
    shown = [
        f"- {_text(gain['of'])} over {_text(gain['over'])}, "
        f"{_text(reading.label_of(gain.get('metric', '')))}: "
        f"{reading.estimate(gain, signed=True)}, {reading.shows(gain, reading.main_metric(metrics))}"
        for gain in telling(metrics)
    ]
    drawn = resampled(metrics).split(",")[0]
    return [*blocks, f"Paired gains over the same {drawn}:", "\n".join(shown)] if shown else blocks


def _by_metric(metrics: dict[str, Any]) -> str:
    names = [_text(reading.label_of(name)) for name in reading.metric_names(metrics)]
    found = [
        [_text(row.name), _text(row.role), *map(_figure, row.cells), *_costs(metrics, row)]
        for row in result_rows(metrics)
    ]
    return _table(["result", "role", *names, *_cost_heads(metrics)], found, texts=2)


def _by_output(metrics: dict[str, Any]) -> str:
    """A line for each output of each result; what a result cost stands on the first of them."""
    measures, rows = columns(metrics, shown=SHOWN), []
    for row, result in zip(result_rows(metrics), reading.results(metrics), strict=True):
        costs = _costs(metrics, row)
        for place, line in enumerate(lines(metrics, result, measures)):
            told = costs if not place else [""] * len(costs)
            rows.append([_text(row.name), _text(row.role), _text(line.output), *map(_figure, line.cells), *told])
    names = [_text(reading.label_of(name)) for name in measures]
    return _table(["result", "role", "output", *names, *_cost_heads(metrics)], rows, texts=3)


def _by_domain(metrics: dict[str, Any]) -> str:
    measures, rows = columns(metrics, shown=SHOWN), []
    for result in reading.results(metrics):
        for line in lines(metrics, result, measures, by_domain=True):
            if line.domain is not None:
                named = [_text(result.get("name", "")), _text(line.output), _text(line.domain)]
                rows.append([*named, *map(_figure, line.cells)])
    return _table(["result", "output", "domain", *(_text(reading.label_of(name)) for name in measures)], rows, texts=3)


def _figure(cell: Cell) -> str:
    value = f"**{cell.value}**{PROVEN}" if cell.proven else cell.value
    return f"{value} {cell.interval}".strip()


def _costs(metrics: dict[str, Any], row: Row) -> list[str]:
    told = {
        "against": [f"{row.against.value} {row.against.interval}".strip()],
        "rate": [row.rate],
        "trained": [row.trained, row.share],
        "file": [row.file, row.memory],
    }
    return [*(text for name in cost_columns(metrics) for text in told[name]), row.seconds]


def _cost_heads(metrics: dict[str, Any]) -> list[str]:
    main = _text(reading.label_of(reading.main_metric(metrics) or ""))
    heads = {
        "against": [f"{main} over {_text(metrics.get('reference'))}".strip()],
        "rate": ["learning rate"],
        "trained": ["trained parameters", "share"],
        "file": ["file", "peak memory"],
    }
    return [*(text for name in cost_columns(metrics) for text in heads[name]), "seconds"]


def _classes(metrics: dict[str, Any]) -> list[str]:
    recalls = class_recalls(metrics.get("confusion") or {})
    if not recalls:
        return []
    rows = [[_text(name), reading.count(users), reading.number(recall)] for name, users, recall in recalls]
    return ["## Errors by class", _table(["true class", "predictions", "recall"], rows)]


def _table(head: list[str], rows: list[list[str]], *, texts: int = 1) -> str:
    rule = [*(["---"] * texts), *(["---:"] * (len(head) - texts))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _text(value: object) -> str:
    """One line in which nothing is Markdown or HTML."""
    text = reading.plain(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#" else letter for letter in text)


def _fenced(code: str) -> str:
    fence = "```"
    while fence in code:
        fence += "`"
    return f"{fence}\n{code}\n{fence}"
