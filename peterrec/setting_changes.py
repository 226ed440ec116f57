"""What differs between the settings of an interrupted run and those of the run that would go on with it."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SettingChange:
    """A setting `key` (`a.b`) with another value, as JSON; None where one side has no such setting."""

    key: str
    before: str | None
    now: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.key} (no such setting before, {self.now} now)"
        if self.now is None:
            return f"{self.key} ({self.before} before, no such setting now)"
        return f"{self.key} ({self.before} before, {self.now} now)"


def setting_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, free: Collection[str] = (), prefix: str = ""
) -> list[SettingChange]:
    """The settings (JSON values, nested) that differ, by name, but for those that are `free` to."""
    found: list[SettingChange] = []
    for key in sorted(before.keys() | now.keys()):
        name, old, new = f"{prefix}{key}", before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += setting_changes(old, new, free=free, prefix=f"{name}.")
        elif name not in free and (old != new or (key in before) != (key in now)):
            found.append(SettingChange(name, _text(before, key), _text(now, key)))
    return found


def how_to_go_on(changes: Sequence[SettingChange]) -> str:
    """What makes the settings those of the interrupted run again, as the beginning of a sentence."""
    missing = [change for change in changes if change.before is None or change.now is None]
    if len(missing) == len(changes):
        return (
            "If the command is the same, another version of peterrec made that run, which has other settings to offer: "
            "go on with that version"
        )
    if missing:
        return "To go on, run the same command as before, with the version of peterrec that made that run"
    return "Run the same command as before to go on"


def _text(settings: Mapping[str, Any], key: str) -> str | None:
    return json.dumps(settings[key]) if key in settings else None
