"""The prepare stage's summary on the page: what was read, the parts, lengths and labels."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from peterrec.report.plots import bars_svg, histogram_svg
from peterrec.report.reading import ABSENT, count, finite, plain
from peterrec.report.tables import pairs_html, scrolling

Summary = Mapping[str, Any]
BARS = 24  # more than that is a list, not a picture


def summary_verdict(summary: Summary) -> str:
    """One sentence: how much was kept and how much left out."""
    sizes = [f"{count(summary[key])} {key}" for key in ("users", "items", "events") if key in summary]
    if not sizes:
        return ""
    text = f"Prepared {', '.join(sizes[:-1])} and {sizes[-1]}" if len(sizes) > 1 else f"Prepared {sizes[0]}"
    read, dropped = summary.get("rows_read"), _dropped(summary)
    text += f" from {count(read)} rows read" if finite(read) is not None else ""
    if not dropped:
        return f"{text}; no row was left out."
    reasons = ", ".join(f"{reason}: {count(rows)}" for reason, rows in dropped.items())
    return f"{text}; {count(sum(dropped.values()))} rows were left out ({reasons})."


def _dropped(summary: Summary) -> dict[str, float]:
    reasons = summary.get("rows_dropped")
    reasons = reasons if isinstance(reasons, Mapping) else {"left out": reasons}
    return {plain(reason): rows for reason, value in reasons.items() if (rows := finite(value))}


def summary_html(summary: Summary) -> str:
    """What was read as a table of facts, then the parts with their history lengths, then notes."""
    facts = [(key.replace("_", " "), count(summary[key])) for key in ("rows_read",) if key in summary]
    facts += [(f"rows left out: {reason}", count(rows)) for reason, rows in _dropped(summary).items()]
    facts += [(key, count(summary[key])) for key in ("events", "users", "items") if key in summary]
    time, split = summary.get("time"), summary.get("split")
    if isinstance(time, Mapping) and time.get("first") is not None:
        ends = [time.get(f"{end}_date", time[end]) for end in ("first", "last")]
        name = "time (UTC)" if "first_date" in time else "time (an order)"
        facts.append((name, " to ".join(plain(str(end)).replace("T", " ").removesuffix("+00:00") for end in ends)))
    if isinstance(split, Mapping):
        settings = ", ".join(f"{key} {value}" for key, value in (split.get("parameters") or {}).items())
        facts.append(("split", plain(f"{split.get('name')} ({settings})" if settings else split.get("name"))))
        facts += [("about the split", plain(split["caveat"]))] if split.get("caveat") else []
    elif split is not None:
        facts.append(("split", plain(split)))
    notes = "".join(f"<li>{escape(plain(note))}</li>" for note in summary.get("notes") or [])
    table = pairs_html(facts, "What was read") if facts else ""
    return table + _parts_html(summary) + (f'<ul class="note">{notes}</ul>' if notes else "")


def _parts_html(summary: Summary) -> str:
    parts = {name: part for name, part in (summary.get("parts") or {}).items() if isinstance(part, Mapping)}
    rows: dict[str, dict[str, str]] = {}
    for name, part in parts.items():
        lengths = part.get("lengths")
        figures = {**part, **(lengths if isinstance(lengths, Mapping) else {})}
        rows[name] = {key: count(value) for key, value in figures.items() if finite(value) is not None}
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    if not columns:
        return ""
    head = "".join(f'<th scope="col">{escape(plain(key).replace("_", " "))}</th>' for key in ["part", *columns])
    body = "".join(
        f'<tr><th scope="row">{escape(plain(name))}</th>'
        + "".join(f"<td>{row.get(key, ABSENT)}</td>" for key in columns)
        + "</tr>"
        for name, row in rows.items()
    )
    return scrolling(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", "Parts")


def distributions(value: object, name: str, *, prefix: str, bare: bool) -> Iterator[tuple[str, str, str]]:
    """Every histogram in `value` as (title, SVG, caption): `{edges, counts}` of lengths, and label shares.

    Labels are `{shares: [{value, count, share}], distinct}`, or with `bare` also simply `{label: count}`.
    """
    if not isinstance(value, Mapping):
        return
    title = plain(name).replace("_", " ").replace("length histogram", "lengths").replace("histogram", "history lengths")
    if "edges" in value and "counts" in value:
        what = "Users by number of events; a bar holds those from the number at its left to below the next."
        edges, counts = list(value["edges"]), list(value["counts"])
        yield (
            title,
            histogram_svg(edges, counts, axis="events of a user", prefix=prefix, label=f"{title}: {what}"),
            what,
        )
        return
    shares = value.get("shares")
    if isinstance(shares, list):
        bars = [(str(e.get("value")), e.get("count", e.get("share"))) for e in shares if isinstance(e, Mapping)]
    else:
        bars = [(str(key), number) for key, number in value.items()] if bare else []
    known = [(label, number) for label, raw in bars if (number := finite(raw)) is not None]
    if known and not any(isinstance(raw, Mapping) for _, raw in bars):
        hidden = int(finite(value.get("distinct")) or 0) - len(known)
        caption = "Users by value" + (f", without {hidden:,} rarer ones." if hidden > 0 else ".")
        yield title, bars_svg(_bars(known), prefix=prefix, label=f"{title}: {caption}"), caption
        return
    for index, (key, inner) in enumerate(value.items()):
        path = ": ".join(part for part in (name, str(key)) if part and part != "parts")
        yield from distributions(inner, path, prefix=f"{prefix}-{index}", bare=bare)


def _bars(labels: list[tuple[str, float]]) -> list[tuple[str, float, str]]:
    total = sum(number for _, number in labels) or 1.0
    shares = total <= 1.0 + 1e-9 and any(number != int(number) for _, number in labels)
    rest = sum(number for _, number in labels[BARS:])
    shown = labels[:BARS] + ([(f"{len(labels) - BARS} others", rest)] if len(labels) > BARS else [])
    texts = [f"{n:.1%}" if shares else f"{count(n)} ({n / total:.1%})" for _, n in shown]
    return [(label, number, text) for (label, number), text in zip(shown, texts, strict=True)]
