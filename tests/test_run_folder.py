"""The output folder: locked, never half-written, resumable, and whole after a kill at any point."""

import errno
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from peterrec.atomic import atomic_file, atomic_folder
from peterrec.errors import BusyError, RefusedError, ResourceError, SettingsError
from peterrec.run_folder import output_folder
from peterrec.run_record import FORMAT_VERSION, data_of, read_run, relative_to_run

SETTINGS = {"training": {"epochs": 3, "seed": 0}, "task": "gender"}


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {".lock"}


def finished(path: Path, text: str = "old") -> None:
    with output_folder(path, stage="finetune", resume=SETTINGS, overwrite=True) as run:
        run.write_text("a.txt", text)
        run.write_text("deep/b.txt", text)
        run.finish(inputs={"encoder": "e"}, text=text)


def test_a_finished_run_tells_what_it_is_and_keeps_no_bookkeeping(tmp_path: Path) -> None:
    with output_folder(tmp_path / "run", stage="finetune", resume=SETTINGS) as run:
        assert not run.resumed
        (run.checkpoints / "step").write_text("x")
        assert not (tmp_path / "run" / "run.json").exists()
        with run.files() as folder:
            (folder / "model").mkdir()
            (folder / "model" / "weights").write_text("w")
            (folder / "config.json").write_text("{}")
        with run.folder("vectors") as folder:
            (folder / "v").write_text("v")
        run.finish(inputs={"log": "l"})
    found = read_run(tmp_path / "run", stage="finetune")
    assert found["format_version"] == FORMAT_VERSION
    assert found["settings"] == SETTINGS
    assert found["inputs"] == {"log": "l"}
    assert names(tmp_path / "run") == {"run.json", "config.json", "model/weights", "vectors/v"}


def test_a_finished_run_is_never_overwritten_unless_told(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    before = names(tmp_path / "run")
    with (
        pytest.raises(SettingsError, match="--overwrite"),
        output_folder(tmp_path / "run", stage="finetune", resume=SETTINGS),
    ):
        pass
    assert names(tmp_path / "run") == before


def test_a_run_of_another_stage_is_never_overwritten(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    before = names(tmp_path / "run")
    with (
        pytest.raises(SettingsError, match="the output of `peterrec finetune`, which --overwrite does not replace"),
        output_folder(tmp_path / "run", stage="compare", overwrite=True) as run,
    ):
        run.write_text("a.txt", "new")
    assert (names(tmp_path / "run"), (tmp_path / "run" / "a.txt").read_text()) == (before, "old")
    (tmp_path / "run" / "run.json").write_text("{")
    with output_folder(tmp_path / "run", stage="compare", overwrite=True) as run:
        run.write_text("a.txt", "new")
    assert (tmp_path / "run" / "a.txt").read_text() == "new", "a damaged run is of use to nobody"


def test_overwriting_removes_the_old_run_only_at_the_first_commit(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    before = names(tmp_path / "run")

    def fail_half_way() -> None:
        with (
            output_folder(tmp_path / "run", stage="finetune", overwrite=True) as run,
            run.file("a.txt") as temporary,
        ):
            temporary.write_text("half")
            raise ValueError("bad data")

    with pytest.raises(ValueError, match="bad data"):
        fail_half_way()
    assert names(tmp_path / "run") == before
    assert (tmp_path / "run" / "a.txt").read_text() == "old"
    with output_folder(tmp_path / "run", stage="finetune", overwrite=True) as run:
        run.write_text("c.txt", "new")
        assert names(tmp_path / "run") == {"c.txt", "unfinished.json", ".lock.holder"}


def test_an_interrupted_run_goes_on_under_the_same_settings_only(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def interrupted(settings: dict) -> None:
        with (
            suppress(KeyboardInterrupt),
            output_folder(path, stage="finetune", resume=settings, overwrite=True) as run,
        ):
            (run.checkpoints / "1").write_text("state")
            raise KeyboardInterrupt

    interrupted(SETTINGS)
    with output_folder(path, stage="finetune", resume=SETTINGS) as run:
        assert run.resumed
        assert (run.checkpoints / "1").read_text() == "state"
    other = {"training": {"epochs": 3, "seed": 1}, "task": "age"}
    with (
        pytest.raises(SettingsError, match=r"task \(\"gender\" before, \"age\" now\); training.seed \(0 be"),
        output_folder(path, stage="finetune", resume=other),
    ):
        pass
    with (
        pytest.raises(SettingsError, match="stage"),
        output_folder(path, stage="pretrain", resume=SETTINGS),
    ):
        pass
    assert (path / "checkpoints" / "1").exists()
    with output_folder(path, stage="finetune", resume=other, overwrite=True) as run:
        assert not run.resumed
        assert list(run.checkpoints.iterdir()) == []
    interrupted(SETTINGS)
    with output_folder(path, stage="finetune") as run:  # a stage that does not resume
        assert not run.resumed
        run.write_text("x", "x")
    assert names(path) == {"x", "unfinished.json"}


def test_a_run_of_a_version_without_a_setting_is_said_to_be_one(tmp_path: Path) -> None:
    with (
        suppress(KeyboardInterrupt),
        output_folder(tmp_path / "run", stage="pretrain", resume={"training": {"epochs": 3}}) as run,
    ):
        run.write_text("a", "a")
        raise KeyboardInterrupt
    now = {"training": {"epochs": 3, "table_update": "auto"}}
    said = r"table_update \(no such setting before, \"auto\" now\)\. .*another version of peterrec.*--overwrite"
    with pytest.raises(SettingsError, match=said), output_folder(tmp_path / "run", stage="pretrain", resume=now):
        pass
    with output_folder(tmp_path / "run", stage="pretrain", resume=now, may_differ=["training.table_update"]) as run:
        assert run.resumed
        run.finish()
    assert read_run(tmp_path / "run")["settings"] == now


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with (
            pytest.raises(SettingsError, match=r"thesis\.tex"),
            output_folder(tmp_path, stage="finetune", overwrite=overwrite),
        ):
            pass
    assert names(tmp_path) == {"thesis.tex"}
    assert not (tmp_path / ".lock").exists()
    with (
        pytest.raises(SettingsError, match="file of that name"),
        output_folder(tmp_path / "thesis.tex", stage="finetune"),
    ):
        pass


def test_a_run_that_fails_before_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), output_folder(tmp_path / "new", stage="prepare", resume={}):
        raise ValueError("x")
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from peterrec.run_folder import output_folder
with output_folder(Path(sys.argv[1]), stage="pretrain", resume={"a": 1}) as run:
    run.write_text("begun", "")
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_told_who_holds_the_folder_and_a_dead_holder_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with (
                pytest.raises(BusyError, match=f"process {holder.pid} on "),
                output_folder(path, stage="pretrain", overwrite=True),
            ):
                pass
        finally:
            holder.kill()
    with output_folder(path, stage="pretrain", resume={"a": 1}) as run:
        assert run.resumed


def test_the_lock_holds_within_one_process_too(tmp_path: Path) -> None:
    with (
        output_folder(tmp_path / "r", stage="pretrain"),
        pytest.raises(BusyError, match=f"process {os.getpid()}"),
        output_folder(tmp_path / "r", stage="pretrain"),
    ):
        pass


def test_reading_a_run_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(SettingsError, match="no such folder"):
        read_run(path, stage="pretrain")
    path.mkdir()
    with pytest.raises(SettingsError, match="not an output folder of `peterrec pretrain`"):
        read_run(path, stage="pretrain")
    with output_folder(path, stage="finetune", resume=SETTINGS) as run:
        run.write_text("a", "a")
        with pytest.raises(SettingsError, match="not finished"):
            read_run(path)
        run.finish()
    with pytest.raises(SettingsError, match="output of `peterrec finetune`; here one of `peterrec pretrain`"):
        read_run(path, stage="pretrain")
    run_json = path / "run.json"
    whole = json.loads(run_json.read_text())
    run_json.write_text(json.dumps({**whole, "format_version": FORMAT_VERSION + 1}))
    with pytest.raises(RefusedError, match="newer peterrec"):
        read_run(path)
    for broken in ("{", "[]", "{}"):
        run_json.write_text(broken)
        with pytest.raises(RefusedError, match="damaged"):
            read_run(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_or_forbidden_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("old")
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(pathlib.Path, "replace", fail)
    with pytest.raises(ResourceError, match=r"a\.txt: "), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    with pytest.raises(ResourceError, match="folder: "), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "x").write_text("new")
    assert names(tmp_path) == {"a.txt", "folder/x"}
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "folder" / "x").read_text() == "old"


def test_a_file_limit_stops_native_writers_with_the_same_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with (
            pytest.raises(ResourceError, match=r"model\.safetensors: .*Free space"),
            output_folder(tmp_path / "run", stage="pretrain") as run,
            run.file("model.safetensors") as temporary,
        ):
            save_file({"a": torch.zeros(100_000)}, temporary)
        with (
            pytest.raises(ResourceError, match=r"log\.txt: "),
            output_folder(tmp_path / "run", stage="pretrain") as run,
        ):
            run.write_text("log.txt", "x" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "run").exists()


def _overwrite_with_new(path: Path) -> None:
    with output_folder(path, stage="finetune", overwrite=True, resume=SETTINGS) as run:
        if not run.resumed or not (path / "a.txt").exists():
            run.write_text("a.txt", "new")
        (run.checkpoints / "state").write_text("new")
        with run.files() as folder:
            (folder / "c.txt").write_text("new")
        run.finish(text="new")


def test_a_kill_at_any_point_leaves_the_old_run_whole_or_one_that_the_same_command_finishes(
    tmp_path: Path,
) -> None:
    points = 0
    while True:
        path = tmp_path / f"kill{points + 1}"
        finished(path)
        child = os.fork()
        if child == 0:
            _die_at(points + 1)
            _overwrite_with_new(path)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        points += 1
        kept = {p.name: p.read_text() for p in path.rglob("*.txt") if ".partial" not in str(p)}
        if (path / "run.json").exists():  # one whole run, the old or the new, never a mix
            text = read_run(path)["text"]
            expected = {"a.txt", "b.txt"} if text == "old" else {"a.txt", "c.txt"}
            assert kept == dict.fromkeys(expected, text), f"killed at {points}"
        _overwrite_with_new(path)
        assert names(path) == {"run.json", "a.txt", "c.txt"}, f"killed at {points}"
        shutil.rmtree(path)
    assert points > 20  # every fsync, rename and delete was a kill point


def _die_at(k: int) -> None:
    """Kill this process, as the power switch would, before its k-th flush, rename or delete."""
    count = 0

    def armed(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == k:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "unlink", "rmdir", "replace", "rename", "mkdir"):
        setattr(os, name, armed(getattr(os, name)))


def test_the_data_of_a_run_are_found_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, data = tmp_path / "runs" / "encoder", tmp_path / "data" / "log"
    for folder in (run, data):
        folder.mkdir(parents=True)
    recorded = relative_to_run(Path("data/log"), Path("runs/encoder"))
    assert recorded == os.path.join("..", "..", "data", "log")  # noqa: PTH118
    monkeypatch.chdir("/")
    for noted in (recorded, str(data)):
        assert data_of(run, {"inputs": {"data": noted}}).resolve() == data
    # as older versions noted it: relative to the working directory
    monkeypatch.chdir(tmp_path)
    assert data_of(Path("runs/encoder"), {"inputs": {"data": "data/log"}}) == Path("data/log")
    assert data_of(run, {"inputs": {"data": "gone"}}) == run / "gone"


@pytest.mark.parametrize("run", [{}, {"inputs": None}, {"inputs": {}}, {"inputs": {"data": 3}}])
def test_a_run_that_names_no_data_is_refused(tmp_path, run):
    with pytest.raises(RefusedError, match=r"run\.json"):
        data_of(tmp_path, run)


def test_relative_places_hold_through_links(tmp_path):
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "run")
    noted = relative_to_run(tmp_path / "data", tmp_path / "link")
    assert data_of(tmp_path / "link", {"inputs": {"data": noted}}).resolve() == tmp_path / "data"
