"""The tracker: an offline run can be read back, and a broken one neither stops nor changes a run."""

import importlib.util
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from peterrec.training.loop import train
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker, WandbTracker, open_tracker

torch.set_num_threads(1)


def _loop_tests() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loop_tests", Path(__file__).with_name("test_loop.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _records(path: Path) -> Iterator:
    """The records of a `.wandb` file: a log in LevelDB's layout (32 KiB blocks of checked pieces)."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, joined = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        joined += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield wandb_internal_pb2.Record.FromString(joined)
            joined = b""


def test_an_offline_run_can_be_read_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights").write_text("w")
    told: list[str] = []
    tracker = open_tracker(
        "offline",
        project="peterrec",
        name="serial",
        config={"training": {"epochs": 3}, "output": tmp_path},
        folder=tmp_path,
        notify=told.append,
    )
    for epoch in (1, 2):
        tracker.log({"train/loss": 1 / epoch, "validation/none": float("nan")}, step=10 * epoch)
    tracker.table("comparison", columns=["adapter", "accuracy"], rows=[["serial", 0.8], ["none", None]])
    tracker.artifact("an encoder", type="encoder", files=[tmp_path / "weights"])
    tracker.artifact("gender-serial", type="adapter", files=[tmp_path / "weights"], uses=["an encoder"])
    tracker.finish(60)
    assert told == []
    assert capfd.readouterr() == ("", "")
    assert {p.name for p in tmp_path.iterdir()} == {"weights", "wandb"}

    [path] = tmp_path.glob(f"wandb/offline-run-*/run-{tracker.run_id}.wandb")
    records = list(_records(path))
    [run] = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.project, run.display_name) == (tracker.run_id, "peterrec", "serial")
    config = {u.key: json.loads(u.value_json) for u in run.config.update}
    assert config["training"] == {"epochs": 3}
    assert config["output"] == str(tmp_path)
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    logged = [(r["_step"], r["train/loss"]) for r in rows if "train/loss" in r]
    assert logged == [(10, 1.0), (20, 0.5)]
    assert not any("validation/none" in r for r in rows)
    [table_file] = tmp_path.rglob("comparison*.table.json")
    table = json.loads(table_file.read_text())
    assert table["columns"] == ["adapter", "accuracy"]
    assert table["data"] == [["serial", 0.8], ["none", None]]
    assert any(k.startswith("comparison") for r in rows for k in r)
    requests = [r.request.log_artifact.artifact for r in records if r.request.HasField("log_artifact")]
    artifacts = {a.name: a for a in [r.artifact for r in records if r.HasField("artifact")] + requests}
    assert artifacts["an-encoder"].type == "encoder"
    assert artifacts["gender-serial"].type == "adapter"
    assert [e.path for e in artifacts["gender-serial"].manifest.contents] == ["weights"]
    assert json.loads(artifacts["gender-serial"].metadata) == {"uses": ["an-encoder"]}


@pytest.fixture
def fake_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a module of that name before the real one in the tracker's process."""

    def put(code: str) -> None:
        (tmp_path / "fake").mkdir()
        (tmp_path / "fake" / "wandb.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))

    return put


RUN = """
import json, os, signal, sys, time
class Settings(dict):
    def __init__(self, **given): super().__init__(given)
class Run:
    def log(self, metrics, step=None): {log}
    def finish(self): {finish}
def init(**given):
    {init}
    return Run()
"""


def fake(init: str = "pass", log: str = "pass", finish: str = "pass") -> str:
    return RUN.format(init=init, log=log, finish=finish)


BROKEN = {
    "raises on import": "raise ImportError('no wandb')",
    "raises in init": fake(init="raise RuntimeError('no key')"),
    "raises in log": fake(log="raise RuntimeError('no')"),
    "dies": fake(log="os.kill(os.getpid(), signal.SIGKILL)"),
    "hangs on import": "import time; time.sleep(600)",
    "hangs in init": fake(init="time.sleep(600)"),
    "hangs in log": fake(log="time.sleep(600)"),
    "hangs in finish": fake(finish="time.sleep(600)"),
    "ignores signals and hangs": fake(init="signal.signal(signal.SIGTERM, signal.SIG_IGN)", finish="time.sleep(600)"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_tracker_leaves_run_and_weights_alone(tmp_path: Path, fake_wandb, way: str) -> None:
    loop_tests = _loop_tests()
    settings = loop_tests.SETTINGS.model_copy(update={"epochs": 2})

    def weights(tracker: Tracker) -> str:
        program = loop_tests.Regression()
        result = train(program, settings, checkpoints=None, tracker=tracker, progress=Progress("silent"))
        return loop_tests.fingerprint(program, result)

    without = weights(Tracker())
    fake_wandb(BROKEN[way])
    told: list[str] = []
    tracker = open_tracker("offline", project="p", name="n", config={}, folder=tmp_path, notify=told.append)
    assert weights(tracker) == without
    tracker.table("big", columns=["x"], rows=[[i] for i in range(50_000)])  # more than a pipe holds
    began = time.monotonic()
    tracker.finish(1.5 if "hangs" in way else 30)
    assert time.monotonic() - began < 25
    assert len(told) == 1
    assert told[0].startswith("wandb: ")
    assert isinstance(tracker, WandbTracker)
    assert tracker._process.returncode is not None  # nothing of it goes on in the dark
    assert not tracker._thread.is_alive()
    tracker.finish()
    assert len(told) == 1


def test_records_beyond_the_queue_are_dropped_and_counted(tmp_path: Path, fake_wandb) -> None:
    fake_wandb("import time; time.sleep(600)")
    told: list[str] = []
    tracker = open_tracker("offline", project="p", name="n", config={}, folder=tmp_path, notify=told.append)
    assert isinstance(tracker, WandbTracker)
    for step in range(5000):
        tracker.log({"x" * 100: 1.0}, step=step)
    assert 2000 < tracker._dropped < 5000  # the queue's thousand and what the pipe took got through
    tracker.finish(0.2)
    assert len(told) == 1


def test_a_good_tracker_says_nothing_and_passes_on_everything(tmp_path: Path, fake_wandb) -> None:
    out = tmp_path / "log"
    write = f"open({str(out)!r}, 'a').write(json.dumps(%s) + chr(10))"
    fake_wandb(
        fake(
            init=write % "[given['id'], given['resume'], sys.argv[1:]]",
            log=write % "[step, metrics]",
        )
    )
    told: list[str] = []
    for _ in range(2):  # the second is a resume: the same id
        with open_tracker("offline", project="p", name="n", config={}, folder=tmp_path, notify=told.append) as tracker:
            tracker.log({"a": 1.0}, step=3)
    assert told == []
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines == 2 * [[tracker.run_id, "allow", []], [3, {"a": 1.0}]]
    other = open_tracker(
        "offline", project="p", name="n", config={}, folder=tmp_path, run_id="given", notify=told.append
    )
    other.finish(30)
    assert other.run_id == "given"


def test_what_cannot_even_start_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse)
    told: list[str] = []
    tracker = open_tracker("online", project="p", name="n", config={}, folder=tmp_path, notify=told.append)
    tracker.log({"a": 1.0}, step=1)
    tracker.finish()
    assert told == ["wandb: not tracking ([Errno 11] Resource temporarily unavailable)."]


def test_off_does_nothing(tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    tracker = open_tracker("off", project="p", name="n", config={}, folder=tmp_path)
    tracker.log({"a": 1.0}, step=1)
    tracker.table("t", columns=["a"], rows=[[1]])
    tracker.artifact("a", type="encoder", files=[])
    tracker.finish()
    assert tracker.run_id is None
    assert set(tmp_path.iterdir()) == before
