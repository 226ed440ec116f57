"""The embedded world behind a prepared log, for its oracle."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from peterrec.data.prepared import PreparedLog
from peterrec.data.synthetic import World, WorldFiles, WorldSettings
from peterrec.errors import SettingsError
from peterrec.run_record import read_run

NOTE_FILE = "world.json"
FORMAT, FORMAT_VERSION = "peterrec.world", 1
_COMPARED_USERS = 100


@dataclass(frozen=True)
class WorldNote:
    """What stands beside a world's raw files: its settings, how many bad rows were planted, the names of the files."""

    settings: WorldSettings
    bad_rows: int
    log: tuple[str, ...]
    files: tuple[str, ...]


def note_world(folder: Path, *, settings: WorldSettings, files: WorldFiles) -> None:
    """Writes `world.json` beside the raw `files` of a world, so that its truth can be told later."""
    log = [path.name for path in files.log]
    value = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "settings": dataclasses.asdict(settings),
        "bad_rows": len(files.planted),
        "log": log,
        "files": [*log, files.users.name, files.target.name, files.impressions.name],
    }
    (folder / NOTE_FILE).write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def read_note(folder: Path) -> WorldNote | None:
    """The note of the world whose raw files lie in `folder`; None where there is none, or a file of another kind."""
    try:
        value: Any = json.loads((folder / NOTE_FILE).read_text("utf-8"))
        if (value["format"], value["format_version"]) != (FORMAT, FORMAT_VERSION):
            return None
        settings = WorldSettings(**value["settings"])
        return WorldNote(
            settings, int(value["bad_rows"]), tuple(map(str, value["log"])), tuple(map(str, value["files"]))
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SettingsError):
        return None  # a file of that name may be anybody's


def world_of(prepared: PreparedLog) -> World | None:
    """The world whose raw log was prepared, generated again; None for logs of real users.

    The raw log is looked for where it was when `prepare` ran, and where it is if it moved with the prepared folder.
    A world counts only if the prepared users have its histories and labels.
    """
    inputs = read_run(prepared.folder, stage="prepare").get("inputs")
    log = inputs.get("log") if isinstance(inputs, dict) else None
    if not isinstance(log, list) or not log:
        return None
    paths = [Path(path) for path in log]
    for folder in raw_folders(paths[0].parent, prepared=prepared.folder.resolve()):
        note = read_note(folder)
        if note is None or any(path.parent != paths[0].parent for path in paths):
            continue
        if _names(folder, paths) <= set(note.log):
            world = World.generate(note.settings)
            if _is_of(world, prepared):
                return world
    return None


def raw_folders(folder: Path, *, prepared: Path) -> Iterator[Path]:
    """Where the folder of raw files may be: as given, from any folder above the prepared one, beside that."""
    yield folder
    if not folder.is_absolute():
        yield from (above / folder for above in prepared.parents)
    yield prepared.parent / folder.name


def _names(folder: Path, paths: Sequence[Path]) -> set[str]:
    """The names of the files that `paths` (some of them patterns) meant."""
    found: set[str] = set()
    for path in paths:
        matches = {match.name for match in folder.glob(path.name)} if path.name else set()
        found |= {path.name} if (folder / path.name).is_file() else matches or {path.name}
    return found


def _is_of(world: World, prepared: PreparedLog) -> bool:
    """Whether a prepared log is of that world: its users are known, their events and labels are theirs."""
    sequences = prepared.sequences("histories")
    known = pa.array(world.users, pa.string())
    for row in range(min(len(sequences), _COMPARED_USERS)):
        number = pc.index(known, sequences.users[row]).as_py()
        if number < 0:
            return False
        truth = Counter(world.items[item] for item in world.histories[number])
        if Counter(prepared.vocabulary.ids(sequences.items_of(row))) - truth:  # rare items may be missing, none added
            return False
    return _labels_agree(world.labels, prepared.labels(), known=known)


def _labels_agree(truth: pa.Table, labels: pa.Table | None, *, known: pa.Array) -> bool:
    if labels is None:
        return True
    places = pc.call_function("index_in", [labels["user"]], pc.SetLookupOptions(value_set=known))
    if places.null_count:
        return False
    for name in set(truth.column_names) & set(labels.column_names):
        given, true = (column.cast(pa.string()) for column in (labels[name], truth[name].take(places)))
        if pc.call_function("any", [pc.call_function("not_equal", [given, true])]).as_py():
            return False
    return True
