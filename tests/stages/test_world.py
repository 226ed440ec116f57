"""The raw log of the embedded world: written once, never over what is somebody else's."""

import dataclasses
import json
from pathlib import Path

import pytest

from peterrec.data.synthetic import WorldSettings
from peterrec.errors import SettingsError
from peterrec.stages import world

SMALL = WorldSettings(users=30, items=40, target_items=20, mean_length=12)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(world, "DEFAULT", SMALL)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_raw_log_is_written_once_and_mended(tmp_path):
    log = world.raw_log()
    assert log == [world.RAW / "log-0.csv", world.RAW / "log-1.csv.gz"]
    before, written = content(world.RAW), log[0].stat().st_mtime_ns
    assert world.raw_log() == log
    assert log[0].stat().st_mtime_ns == written
    log[1].unlink()
    assert world.raw_log() == log
    assert content(world.RAW) == before
    world.raw_log(bad_rows=2)
    assert content(world.RAW)["log-0.csv"] != before["log-0.csv"]


def test_the_impressions_lie_beside_the_log():
    path = world.impression_log()
    assert path == world.RAW / "impressions.csv"
    truth, written = content(world.RAW), path.stat().st_mtime_ns
    assert truth["impressions.csv"].startswith(
        b"user,item,timestamp,domain,position,device,click,cart,conversion,like,"
    )
    assert world.impression_log() == path
    assert path.stat().st_mtime_ns == written
    path.unlink()
    assert world.impression_log() == path
    assert content(world.RAW) == truth
    other = world.impression_log(Path("other"), settings=dataclasses.replace(SMALL, seed=1))
    assert other.read_bytes() != truth["impressions.csv"]


def test_a_world_of_a_version_without_impressions_gets_them():
    world.raw_log()
    truth = content(world.RAW)
    note = json.loads(truth["world.json"])
    note["files"].remove("impressions.csv")
    (world.RAW / "world.json").write_text(json.dumps(note))
    (world.RAW / "impressions.csv").unlink()
    log = world.raw_log()
    assert not (world.RAW / "impressions.csv").exists(), "the log itself needs no new files"
    assert world.impression_log() == world.RAW / "impressions.csv"
    assert world.raw_log() == log
    assert content(world.RAW) == truth
    (world.RAW / "world.json").write_text(json.dumps(note))
    with pytest.raises(SettingsError, match=r"impressions\.csv"):  # a file that no note knows may be anybody's
        world.impression_log()


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    world.write_world(folder, settings=SMALL)  # an empty one may be used
    (folder / "thesis.txt").write_text("years of work")
    before = content(folder)
    for write in (world.raw_log, lambda f: world.write_world(f, settings=SMALL)):
        with pytest.raises(SettingsError, match=r"mine: .*thesis\.txt"):
            write(folder)
    assert content(folder) == before
    with pytest.raises(SettingsError, match="there is a file of that name"):
        world.raw_log(folder / "thesis.txt")


def test_a_prepared_folder_is_the_world_or_refused():
    assert not world.is_prepared()
    summary = world.run()
    assert (summary["users"], world.is_prepared()) == (30, True)
    with pytest.raises(SettingsError, match="--overwrite"):
        world.run()
    assert world.run(overwrite=True) == summary
    log = world.write_world(Path("other"), settings=SMALL)
    world.prepare.run(log, output=world.FOLDER, columns=world.COLUMNS, split="leave_one_out", overwrite=True)
    with pytest.raises(SettingsError, match="another log"):
        world.is_prepared()
