"""The embedded world as raw and as prepared log: what the commands work on when no data is given."""

from pathlib import Path
from typing import Any

from peterrec.atomic import atomic_folder
from peterrec.data.domain_logs import TwoLogs
from peterrec.data.impressions.history import History
from peterrec.data.impressions.preparation import Sources
from peterrec.data.impressions.wanted import Wanted, parse_field, parse_label, split_rule
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.synthetic import World, WorldSettings
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import SettingsError
from peterrec.evaluation.world import NOTE_FILE, note_world, read_note
from peterrec.run_record import read_run
from peterrec.stages import prepare, prepare_impressions

COLUMNS = LogColumns(user="user", item="item", time="timestamp")
FOLDER = Path("runs/world")
RAW = Path("runs/world-log")  # what was prepared in FOLDER
CHECKED = Path("runs/world-raw")  # the same with bad rows in it
PLANTED = 8
IMPRESSIONS = "impressions.csv"
SHOWN = Path("runs/world-impressions")  # these, prepared
DEFAULT = WorldSettings()


def write_world(folder: Path, *, settings: WorldSettings, bad_rows: int = 0) -> list[Path]:
    """Writes a world's raw files (log in two parts, users, target domain, impressions) to `folder`; returns the log.

    Replaces a folder that holds a world and nothing else; raises SettingsError for any other that is not empty.
    """
    _refuse_foreign(folder)
    with atomic_folder(folder) as temporary:
        files = World.generate(settings).write(temporary, bad_rows=bad_rows)
        note_world(temporary, settings=settings, files=files)
    return log_files(folder)


def log_files(folder: Path) -> list[Path]:
    """The parts of the log among a world's raw files."""
    return sorted(folder.glob("log-*.csv*"))


def raw_log(folder: Path = RAW, *, settings: WorldSettings | None = None, bad_rows: int = 0) -> list[Path]:
    """The log of a world in `folder`, written there unless that very world is there already. Raises SettingsError."""
    settings = DEFAULT if settings is None else settings
    note = read_note(folder)
    if note is not None and (note.settings, note.bad_rows) == (settings, bad_rows):
        _refuse_foreign(folder)
        if all((folder / name).is_file() for name in note.files):
            return log_files(folder)
    return write_world(folder, settings=settings, bad_rows=bad_rows)


def domain_logs(folder: Path = RAW, *, settings: WorldSettings | None = None) -> TwoLogs:
    """The world's log as source and that of its target domain, in `folder` as `raw_log` writes it."""
    source = raw_log(folder, settings=settings)
    return TwoLogs(source, folder / "target.csv", source_columns=COLUMNS, target_columns=COLUMNS)


def impression_log(folder: Path = RAW, *, settings: WorldSettings | None = None) -> Path:
    """The world's impressions in `folder`, written as `raw_log` does.

    The raw files are written anew beside them if they are there without impressions. Raises SettingsError.
    """
    raw_log(folder, settings=settings)
    path = folder / IMPRESSIONS
    note = read_note(folder)
    if note is None or path.name not in note.files:  # of a version that had none
        write_world(folder, settings=DEFAULT if settings is None else settings)
    return path


def run(
    *,
    output: Path = FOLDER,
    raw: Path = RAW,
    settings: WorldSettings | None = None,
    split: str = "leave_one_out",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Generates the world, writes its log to `raw` (unless it is there) and prepares it; returns the summary."""
    return prepare.run(
        raw_log(raw, settings=settings),
        output=output,
        columns=COLUMNS,
        users=raw / "users.csv",
        split=split,
        overwrite=overwrite,
    )


def prepared_impressions(folder: Path = SHOWN, *, raw: Path = RAW, prepared: Path = FOLDER) -> Path:
    """The world's impressions, prepared in `folder` with the histories of its log, in the rows of its vocabulary.

    Raises SettingsError where the folders hold something else.
    """
    if (folder / "run.json").is_file():
        rows = read_run(folder, stage="prepare").get("inputs", {}).get("rows")
        if not isinstance(rows, list) or any(Path(path).parent != raw for path in rows):
            raise SettingsError(
                f"{folder}, the place of the embedded world's impressions, holds others; to work on those, name the "
                "folder with --data."
            )
        return folder
    path = impression_log(raw)
    if not is_prepared():
        run(output=prepared, raw=raw)
    history = History(raw_log(raw), COLUMNS, Vocabulary.load(prepared / "vocabulary.parquet"))
    labels = ("click", "cart", "conversion", "like", "dwell", "completion")
    wanted = Wanted(
        labels=tuple(parse_label(name) for name in labels),
        fields=tuple(parse_field(name) for name in ("user", "item", "device:categorical", "position:categorical")),
        user="user",
        item="item",
        time="timestamp",
        domain="domain",
        split=split_rule(None, fractions=None, user=True, time=True),
    )
    prepare_impressions.run(Sources([str(path)], {}, history), wanted=wanted, output=folder)
    return folder


def is_prepared() -> bool:
    """Whether the embedded world was prepared in `FOLDER`. Raises SettingsError if it holds another log or run."""
    if not (FOLDER / "run.json").is_file():
        return False
    inputs = read_run(FOLDER, stage="prepare").get("inputs")
    log = inputs.get("log") if isinstance(inputs, dict) else None
    if not isinstance(log, list) or any(Path(path).parent != RAW for path in log):
        raise SettingsError(
            f"{FOLDER}, the place of the embedded world, holds another log; to work on that one, name the folder."
        )
    return True


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SettingsError(f"{folder}: there is a file of that name, where the embedded world's raw log belongs.")
    note = read_note(folder)
    ours = {NOTE_FILE, *note.files} if note is not None else set()
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if foreign:
        raise SettingsError(
            f"{folder}: the embedded world's raw log belongs here, but the folder holds something else "
            f"({', '.join(foreign[:3])}). Move it away, or run the command in another folder."
        )
