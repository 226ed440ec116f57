"""The confusion matrix of a run as a table, and the recall of each class."""

from collections.abc import Mapping
from html import escape
from typing import Any

from peterrec.report import reading
from peterrec.report.tables import scrolling

ROOMY_CLASSES = 7  # up to here a cell has room for the share below the count


def class_recalls(confusion: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    """Each class with its number of users and the share of them that was recognised (None without users)."""
    labels, matrix = confusion.get("labels") or [], confusion.get("matrix") or []
    recalls = []
    for index, (label, row) in enumerate(zip(labels, matrix, strict=False)):
        counts = [reading.finite(value) or 0.0 for value in row]
        total = sum(counts)
        recalls.append((reading.plain(label), total, counts[index] / total if total and index < len(row) else None))
    return recalls


def _class_name(label: str) -> str:
    return escape(label).replace("/", "/<wbr>")  # may break after a stroke: "executive/managerial"


def confusion_html(confusion: Mapping[str, Any]) -> str:
    """The confusion matrix as a table: counts, shaded by the share of the true class (row)."""
    recalls = class_recalls(confusion)
    if not recalls:
        return ""
    roomy = len(recalls) <= ROOMY_CLASSES
    head = "".join(f'<th scope="col"><span>{escape(label)}</span></th>' for label, _, _ in recalls)
    body = ""
    for index, ((label, total, recall), row) in enumerate(zip(recalls, confusion["matrix"], strict=False)):
        cells = ""
        for column, value in enumerate(row):
            share = (reading.finite(value) or 0.0) / total if total else 0.0
            below = f"<small>{100 * share:.0f}%</small>" if roomy and total else ""
            hit = ' class="hit"' if column == index else ""
            cells += f'<td{hit} style="--share:{share:.3f}">{reading.count(value)}{below}</td>'
        recognised = reading.ABSENT if recall is None else f"{100 * recall:.0f}%"
        body += (
            f'<tr><th scope="row">{_class_name(label)}</th>{cells}'
            f'<td class="total">{reading.count(total)}</td><td class="total">{recognised}</td></tr>'
        )
    table = (
        f'<table class="confusion{"" if roomy else " many"}"><thead><tr>'
        f'<th scope="col">true \\ predicted</th>{head}'
        '<th scope="col"><span>all</span></th><th scope="col"><span>recall</span></th></tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )
    return scrolling(table, "Confusion matrix")
