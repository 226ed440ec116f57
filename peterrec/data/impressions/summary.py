"""The summary of prepared impressions for the console."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

_SHOWN_DOMAINS = 12


def render_impressions(summary: Mapping[str, Any]) -> "Group":
    """Rows, labels, fields, domains, parts and notes as tables (anything that rich prints)."""
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    counts = Table(title="prepared impressions", title_justify="left", show_header=False)
    for name in ("rows_read", "bad_rows", "rows", "users", "items"):
        if summary.get(name) is not None:
            counts.add_row(name.replace("_", " "), f"{summary[name]:,}")
    for name, rows in summary["parts"].items():
        counts.add_row(f"  {name}", f"{rows:,}")
    for name, number in (summary["history"] or {}).items():
        counts.add_row(f"history: {name.replace('_', ' ')}", f"{number:,}")
    labels = Table("label", "rows", "missing", "mean", title="labels", title_justify="left")
    for name, label in summary["labels"].items():
        labels.add_row(Text(name), f"{label['rows']:,}", f"{label['missing']:,}", f"{label['mean']:.4g}")
    fields = Table("field", "kind", "values", "missing", title="fields", title_justify="left")
    for field in summary["fields"]:
        values = "" if field["values"] is None else f"{field['values']:,}"
        fields.add_row(Text(field["name"]), field["kind"], values, f"{field['missing']:,}")
    blocks: list[RenderableType] = [counts, labels, fields]
    if summary["domains"]:
        shown = [f"{name} {rows:,}" for name, rows in list(summary["domains"].items())[:_SHOWN_DOMAINS]]
        more = len(summary["domains"]) - len(shown)
        blocks.append(Text("domains: " + ", ".join(shown) + (f", {more:,} more" if more else "")))
    split = summary["split"]
    shares = ", ".join(f"{share:g}" for share in split["fractions"])
    blocks.append(Text(f"split: {split['name']} ({shares}); {_CAVEATS[split['name']]}"))
    blocks.extend(Text(f"note: {note}", style="yellow") for note in summary["notes"])
    return Group(*blocks)


_CAVEATS = {
    "each_user": "the last rows of each user are the test, so other users' rows of the same days may train; rows of "
    "one user and time stay together, in the earlier part where a cut falls among them",
    "rows": "rows at random, so rows of one user stand in several parts; drawn anew for each seed",
    "by_user": "whole users at random, drawn anew for each seed",
    "temporal": "the last rows of all are the test; rows of one time stay together",
}
