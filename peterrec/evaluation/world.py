"""The embedded world behind a prepared log, for its oracle."""

import dataclasses
import json
from pathlib import Path

from peterrec.data.prepared import PreparedLog
from peterrec.data.synthetic import World, WorldSettings
from peterrec.run_folder import read_run

SETTINGS_FILE = "world.json"


def note_world(folder: Path, settings: WorldSettings) -> None:
    """Writes the settings of a world beside its raw log, so that its truth can be told later."""
    (folder / SETTINGS_FILE).write_text(json.dumps(dataclasses.asdict(settings), indent=2) + "\n", "utf-8")


def world_of(prepared: PreparedLog) -> World | None:
    """The world whose raw log was prepared, generated again; None for logs of real users."""
    logs = read_run(prepared.folder, stage="prepare")["inputs"]["log"]
    path = Path(logs[0]).parent / SETTINGS_FILE
    if not path.is_file():
        return None
    return World.generate(WorldSettings(**json.loads(path.read_text("utf-8"))))
