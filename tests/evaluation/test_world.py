"""The world behind a prepared log: found where it is, told from every other."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from peterrec.data.prepared import open_prepared
from peterrec.data.synthetic import WorldSettings
from peterrec.evaluation.world import NOTE_FILE, read_note, world_of
from peterrec.stages import prepare
from peterrec.stages.world import COLUMNS, write_world

SETTINGS = WorldSettings(users=40, items=40, target_items=20, mean_length=12)


def prepared(log, *, users: Path | None, output: Path):
    prepare.run(log, output=output, columns=COLUMNS, users=users, split="leave_one_out", bad_rows="drop")
    return open_prepared(output)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder with a world in `raw`, prepared from there in `runs/data`."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        log = write_world(Path("raw"), settings=SETTINGS, bad_rows=3)
        prepared(log, users=Path("raw/users.csv"), output=Path("runs/data"))
    return folder


@pytest.fixture
def home(original, tmp_path, monkeypatch):
    """The same in a folder of its own, the working directory; the original is out of sight."""
    shutil.copytree(original, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def test_the_note_tells_the_world(home):
    note = read_note(Path("raw"))
    assert note is not None
    assert (note.settings, note.bad_rows, note.log) == (SETTINGS, 3, ("log-0.csv", "log-1.csv.gz"))
    assert {NOTE_FILE, *note.files} == {path.name for path in Path("raw").iterdir()}


def test_the_world_is_found_from_anywhere(home, tmp_path, monkeypatch):
    for place in (home, tmp_path, home / "runs"):
        monkeypatch.chdir(place)
        world = world_of(open_prepared(home / "runs" / "data"))
        assert world is not None
        assert world.settings == SETTINGS
    monkeypatch.chdir(home / "runs")
    assert world_of(open_prepared(Path("data"))) is not None


def test_the_world_is_found_where_both_moved_to(home, tmp_path):
    shutil.move(home, tmp_path / "elsewhere")
    assert world_of(open_prepared(tmp_path / "elsewhere" / "runs" / "data")) is not None
    (tmp_path / "other").mkdir()
    for name in ("raw", "runs/data"):
        shutil.move(tmp_path / "elsewhere" / name, tmp_path / "other")
    assert world_of(open_prepared(tmp_path / "other" / "data")) is not None
    shutil.rmtree(tmp_path / "other" / "raw")
    assert world_of(open_prepared(tmp_path / "other" / "data")) is None


def test_one_part_and_a_pattern_are_of_the_world(home):
    for number, log in enumerate((["raw/log-1.csv.gz"], ["raw/log-*.csv*"])):
        assert world_of(prepared(log, users=Path("raw/users.csv"), output=Path(f"data{number}"))) is not None


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"related": False}, {"users": 30}, {"items": 45}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_world_that_was_written_anew_is_another(home, changed):
    write_world(Path("raw"), settings=dataclasses.replace(SETTINGS, **changed), bad_rows=3)
    assert world_of(open_prepared(Path("runs/data"))) is None


def test_a_log_beside_a_world_is_not_of_it(home):
    shutil.copy("raw/log-0.csv", "raw/mine.csv")
    assert world_of(prepared(["raw/log-0.csv", "raw/mine.csv"], users=None, output=Path("mine"))) is None
    assert world_of(prepared(["raw/mine.csv"], users=None, output=Path("mine2"))) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"3",
        b'{"users": 40}',
        b'{"name": "Earth"}',
        b"[" * 100_000,
        {"format": "other"},
        {"format_version": 2},
        {"settings": {"users": 40, "colour": "red"}},
        {"settings": {"users": "many"}},
        {"settings": {"users": -1}},
        {"settings": []},
        {"log": None},
        {"bad_rows": "x"},
    ],
    ids=str,
)
def test_any_other_file_of_that_name_is_left_alone(home, content):
    path = Path("raw") / NOTE_FILE
    assert world_of(open_prepared(Path("runs/data"))) is not None
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content).encode()
    path.write_bytes(content)
    assert read_note(Path("raw")) is None
    assert world_of(open_prepared(Path("runs/data"))) is None


def test_a_folder_of_that_name_is_left_alone(home):
    (Path("raw") / NOTE_FILE).unlink()
    (Path("raw") / NOTE_FILE).mkdir()
    assert world_of(open_prepared(Path("runs/data"))) is None


def test_a_table_has_no_world(home):
    import pyarrow.csv

    table = pyarrow.csv.read_csv("raw/users.csv").select(["user"]).append_column("item", [["a"] * 40])
    columns = dataclasses.replace(COLUMNS, time=None)
    shutil.copy(Path("raw") / NOTE_FILE, NOTE_FILE)
    prepare.run(table, output=Path("t"), columns=columns, split="by_user")
    assert world_of(open_prepared(Path("t"))) is None
