"""The files of a world: good rows are the log, bad rows stand where they are said to stand."""

import csv
import gzip
import hashlib
from pathlib import Path

import pytest

from peterrec.data.synthetic import World, WorldFiles, WorldSettings
from peterrec.errors import SettingsError


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(WorldSettings(users=60, items=100, target_items=30, seed=2))


def lines_of(path: Path) -> list[str]:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode().splitlines()


def rows_of(files: WorldFiles) -> list[list[str]]:
    """All rows of the log except those that were planted, by file and line."""
    planted = {(row.file, row.line) for row in files.planted}
    rows = []
    for path in files.log:
        for line, text in enumerate(lines_of(path), start=1):
            if line > 1 and (path, line) not in planted:
                rows.append(next(csv.reader([text])))
    return rows


def table_rows(world: World) -> list[list[str]]:
    columns = [map(str, column.to_pylist()) for column in world.log_table().columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_the_parts_are_the_log_in_order(world: World, tmp_path: Path) -> None:
    files = world.write(tmp_path / "new" / "raw")
    assert [path.name for path in files.log] == ["log-0.csv", "log-1.csv.gz"]
    assert all(lines_of(path)[0] == "user,item,timestamp" for path in files.log)
    assert rows_of(files) == table_rows(world)
    assert abs(len(lines_of(files.log[0])) - len(lines_of(files.log[1]))) <= 1
    assert files.planted == []
    users = [next(csv.reader([line])) for line in lines_of(files.users)]
    assert users[0] == ["user", "gender", "age", "occupation"]
    assert users[1:] == [[str(row[name]) for name in users[0]] for row in world.labels.to_pylist()]
    assert lines_of(files.target)[0] == "user,item,timestamp"
    assert lines_of(files.target)[1:] == [
        f"{row['user']},{row['item']},{row['time']}" for row in world.target.to_pylist()
    ]
    assert sorted(path.name for path in files.users.parent.iterdir()) == [
        "impressions.csv",
        "log-0.csv",
        "log-1.csv.gz",
        "target.csv",
        "users.csv",
    ]


@pytest.mark.parametrize("bad_rows", [1, 8])
def test_bad_rows_stand_where_they_are_said_to(world: World, tmp_path: Path, bad_rows: int) -> None:
    files = world.write(tmp_path, bad_rows=bad_rows)
    assert len(files.planted) == len({row.kind for row in files.planted}) == bad_rows
    for row in files.planted:
        assert lines_of(row.file)[row.line - 1] == row.text
        assert defect(row.text) == row.kind
    assert rows_of(files) == table_rows(world)
    assert sum(len(lines_of(path)) - 1 for path in files.log) == world.log_table().num_rows + bad_rows
    if bad_rows == 8:
        assert {row.file for row in files.planted} == set(files.log)


def defect(text: str) -> str:
    """What is wrong with a row, judged by its text alone."""
    fields = next(csv.reader([text]))
    if len(fields) != 3:
        return "too few fields" if len(fields) < 3 else "too many fields"
    user, item, time = fields
    if not user:
        return "null user"
    if not item:
        return "empty item"
    if not time:
        return "null time"
    if not time.lstrip("-").isdigit():
        return "time is not a number"
    if int(time) < 0:
        return "negative time"
    return "time does not fit 64 bits" if int(time) >= 2**63 else "none"


def test_the_same_world_is_the_same_bytes(world: World, tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        files = World.generate(world.settings).write(tmp_path / name, bad_rows=8)
        paths = [*files.log, files.users, files.target, files.impressions]
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("bad_rows", [-1, 9])
def test_only_so_many_kinds_of_bad_rows(world: World, tmp_path: Path, bad_rows: int) -> None:
    with pytest.raises(SettingsError, match=f"bad_rows = {bad_rows}: it must be from 0 to 8"):
        world.write(tmp_path / "none", bad_rows=bad_rows)
    assert not (tmp_path / "none").exists()
