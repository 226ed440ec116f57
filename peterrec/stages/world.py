"""The embedded world as a prepared log: what the commands work on when no data is given."""

from pathlib import Path
from typing import Any

from peterrec.data.logs.interactions import LogColumns
from peterrec.data.synthetic import World, WorldSettings
from peterrec.evaluation.world import note_world
from peterrec.run_folder import atomic_folder
from peterrec.stages import prepare

COLUMNS = LogColumns(user="user", item="item", time="timestamp")
FOLDER = Path("runs/world")
DEFAULT = WorldSettings()


def write_world(folder: Path, *, settings: WorldSettings, bad_rows: int = 0) -> list[Path]:
    """Writes the raw files of a world (log in two parts, users, target domain) into a new `folder`; returns the log."""
    with atomic_folder(folder) as temporary:
        World.generate(settings).write(temporary, bad_rows=bad_rows)
        note_world(temporary, settings)
    return log_files(folder)


def log_files(folder: Path) -> list[Path]:
    """The parts of the log among a world's raw files."""
    return sorted(folder.glob("log-*.csv*"))


def run(
    *,
    output: Path = FOLDER,
    settings: WorldSettings | None = None,
    split: str = "leave_one_out",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Generates the world, writes its raw log beside `output` and prepares it; returns the summary."""
    settings = DEFAULT if settings is None else settings
    raw = output.with_name(f"{output.name}-log")
    if overwrite or not raw.is_dir():
        write_world(raw, settings=settings)
    return prepare.run(
        log_files(raw),
        output=output,
        columns=COLUMNS,
        users=raw / "users.csv",
        split=split,
        overwrite=overwrite,
    )
