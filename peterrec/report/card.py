"""The README.md of a run's folder: what it is, how well it does, how to use it, and what it is not for."""

from typing import Any

from peterrec.report import reading
from peterrec.report.confusion import class_recalls
from peterrec.report.gains import telling
from peterrec.report.page import flat_settings
from peterrec.report.tables import LEGEND, MARK, cost_columns, result_rows

PROVEN = f"\\{MARK}"  # escaped, or Markdown would read it as emphasis
WHAT = {
    "prepare": "A prepared interaction log: item sequences of users on disk as a `datasets.DatasetDict`.",
    "pretrain": "A user encoder, pretrained on sequences of items without labels.",
    "finetune": "An adapter and a head for one task, on a frozen, pretrained user encoder.",
    "evaluate": "An evaluation of a trained run.",
    "compare": "A comparison of adapters on one task and one split.",
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
    blocks += [WHAT[stage]] if stage in WHAT else []
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
    rows, costs = result_rows(metrics), cost_columns(metrics)
    if not rows:
        return []
    names = [_text(reading.label_of(name)) for name in reading.metric_names(metrics)]
    lines = []
    for row in rows:
        cells = []
        for cell in row.cells:
            value = f"**{cell.value}**{PROVEN}" if cell.proven else cell.value
            cells.append(f"{value} {cell.interval}".strip())
        told = {
            "against": [f"{row.against.value} {row.against.interval}".strip()],
            "rate": [row.rate],
            "trained": [row.trained, row.share],
            "file": [row.file, row.memory],
        }
        cost = [text for name in costs for text in told[name]]
        lines.append([_text(row.name), _text(row.role), *cells, *cost, row.seconds])
    heads = {
        "against": [f"{names[0]} over {_text(metrics.get('reference'))}" if names else ""],
        "rate": ["learning rate"],
        "trained": ["trained parameters", "share"],
        "file": ["file", "peak memory"],
    }
    head = ["result", "role", *names, *(text for name in costs for text in heads[name]), "seconds"]
    notes = "Value and 95 % interval (bootstrap over test users)."
    if any(cell.proven for row in rows for cell in row.cells):
        notes += f" {LEGEND.replace(MARK, PROVEN)}"
    notes = " ".join([notes, *map(_text, reading.notes(metrics))])
    blocks = ["## Results", _table(head, lines, texts=2), notes]
    shown = [
        f"- {_text(gain['of'])} over {_text(gain['over'])}, "
        f"{_text(reading.label_of(gain.get('metric', '')))}: "
        f"{reading.estimate(gain, signed=True)}, {reading.shows(gain, reading.main_metric(metrics))}"
        for gain in telling(metrics)
    ]
    return [*blocks, "Paired gains over the same test users:", "\n".join(shown)] if shown else blocks


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
