"""The summary of a paired log in the words of a prepared one, for the page."""

from collections.abc import Mapping
from typing import Any


def pairs_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Rows read and left out, users, events and items of both domains, and notes, of a paired log's `summary`."""
    users, events, items = (summary.get(name) or {} for name in ("users", "events", "items"))
    logs = summary.get("logs") or {}
    unseen = events.get("source_unseen", 0)
    notes = list(summary.get("notes") or [])
    for count, told in (
        (items.get("source_unseen", 0), "source items are unknown to the encoder; their events are left out."),
        (events.get("target_without_source_before", 0), "target events have no known source event before them."),
        (events.get("target_at_the_time_of_a_source_event", 0), "target events stand at the time of a source event."),
        (items.get("target_ids_in_the_source_log", 0), "item ids are in both domains."),
    ):
        if count:
            notes.append(f"{count:,} {told}")
    dropped = {
        "bad rows": sum(log.get("bad_rows", 0) for log in logs.values()),
        "source items unknown to the encoder": unseen,
    }
    return {
        "rows_read": sum(log.get("rows_read", 0) for log in logs.values()),
        "rows_dropped": {reason: rows for reason, rows in dropped.items() if rows},
        "parts": {
            "source log": {"users": users.get("source"), "events": events.get("source_log")},
            "target log": {
                "users": users.get("target"),
                "events": events.get("target_log"),
                "items": items.get("target"),
            },
            "users in both": {
                "users": users.get("joined"),
                "source events": events.get("source"),
                "target events": events.get("target"),
            },
        },
        "notes": notes,
    }
