"""`peterrec list`: recipes and runs."""

import json
import os
from pathlib import Path

import pytest

from peterrec.errors import SettingsError
from peterrec.run_folder import output_folder
from peterrec.stages import list as stage


def finished(path: Path, *, name: str, metrics: dict | None = None, at: int) -> Path:
    with output_folder(path, stage=name) as folder:
        if metrics is not None:
            folder.write_json("metrics.json", metrics)
        folder.finish()
    os.utime(path / "run.json", (at, at))
    return path


def test_recipes() -> None:
    entries = {(entry.kind, entry.name): entry.what for entry in stage.run("adapters") + stage.run("tasks")}
    assert {("adapters", "none"), ("adapters", "serial"), ("adapters", "full"), ("tasks", "gender")} <= set(entries)
    assert entries["adapters", "none"].startswith("Head only")
    assert all(entries.values())


def test_runs_newest_first(tmp_path: Path) -> None:
    figure = {"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9}}
    metrics = {
        "metric": "accuracy",
        "results": [
            {"name": "majority", "role": "baseline", "metrics": {"accuracy": {"value": 0.5}}},
            {"name": "serial", "role": "model", "metrics": figure},
        ],
    }
    finished(tmp_path / "runs" / "encoder", name="pretrain", at=1_000)
    finished(tmp_path / "runs" / "deep" / "gender", name="finetune", metrics=metrics, at=2_000)
    (tmp_path / "runs" / "unfinished").mkdir()
    entries = stage.run("runs", folder=tmp_path / "runs")
    assert [Path(entry.name).name for entry in entries] == ["gender", "encoder"]
    assert [entry.stage for entry in entries] == ["finetune", "pretrain"]
    assert entries[0].what == "serial: accuracy 0.800 [0.700, 0.900]"
    assert entries[0].date > entries[1].date
    assert entries[1].what == ""


def test_a_damaged_run_hides_no_other(tmp_path: Path) -> None:
    finished(tmp_path / "good", name="pretrain", at=1_000)
    bad = finished(tmp_path / "bad", name="pretrain", at=2_000)
    (bad / "run.json").write_text("{")
    newer = finished(tmp_path / "newer", name="pretrain", at=3_000)
    (newer / "run.json").write_text(json.dumps({"format_version": 99, "stage": "pretrain"}))
    entries = {Path(entry.name).name: entry for entry in stage.run("runs", folder=tmp_path)}
    assert entries["good"].stage == "pretrain"
    assert "damaged" in entries["bad"].what
    assert "newer peterrec" in entries["newer"].what


def test_everything_needs_no_runs(tmp_path: Path) -> None:
    assert {entry.kind for entry in stage.run(folder=tmp_path / "absent")} == {"adapters", "tasks"}
    with pytest.raises(SettingsError, match=r"absent: there is no such folder"):
        stage.run("runs", folder=tmp_path / "absent")
    with pytest.raises(SettingsError, match=r"unknown list 'task'\. Did you mean 'tasks'"):
        stage.run("task")
