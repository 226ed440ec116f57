"""The stage that prepares impressions: what its folder says, and that it is whole or not there."""

import json

import pyarrow as pa
import pytest
from rich.console import Console

from peterrec.data.impressions import impression_folder
from peterrec.data.impressions.impressions import open_impressions
from peterrec.data.impressions.preparation import Sources
from peterrec.data.impressions.summary import render_impressions
from peterrec.data.impressions.wanted import Wanted, parse_field, parse_label, split_rule
from peterrec.errors import DataError, SettingsError
from peterrec.run_record import read_run
from peterrec.stages import prepare_impressions


def rows(number: int) -> pa.Table:
    return pa.table(
        {
            "user": [f"u{n % 4}" for n in range(number)],
            "at": [1_600_000_000 + n for n in range(number)],
            "click": [n % 2 for n in range(number)],
            "page": [["a", "b"][n % 3 == 0] for n in range(number)],
        }
    )


def wanted(*, split: str | None = None) -> Wanted:
    return Wanted(
        labels=(parse_label("click"),),
        fields=(parse_field("page"), parse_field("user")),
        user="user",
        time="at",
        split=split_rule(split, fractions=None, user=True, time=True),
    )


def test_the_folder_is_a_finished_run_with_a_summary(tmp_path):
    summary = prepare_impressions.run(Sources(rows(80), {}), wanted=wanted(), output=tmp_path / "data")
    run = read_run(tmp_path / "data", stage="prepare")
    found = open_impressions(tmp_path / "data")
    assert (run["kind"], run["fingerprint"]) == ("impressions", found.fingerprint)
    assert run["settings"]["schema"] == found.schema.model_dump(mode="json")
    assert summary == json.loads((tmp_path / "data" / "summary.json").read_text())
    assert summary["parts"] == {"train": 56, "validation": 8, "test": 16}
    assert impression_folder(tmp_path / "data")
    with pytest.raises(SettingsError, match="--overwrite"):
        prepare_impressions.run(Sources(rows(80), {}), wanted=wanted(), output=tmp_path / "data")
    prepare_impressions.run(Sources(rows(60), {}), wanted=wanted(), output=tmp_path / "data", overwrite=True)
    assert len(open_impressions(tmp_path / "data")) == 60

    console = Console(width=100)
    with console.capture() as shown:
        console.print(render_impressions(summary))
    text = shown.get()
    assert "split: each_user (0.7, 0.1, 0.2)" in text
    assert "page" in text


def test_a_refused_command_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match="leaves no row for validation"):
        prepare_impressions.run(Sources(rows(4), {}), wanted=wanted(), output=tmp_path / "data")
    constant = rows(20).set_column(2, "click", pa.array([1] * 20))
    with pytest.raises(DataError, match="there is no negative row"):
        prepare_impressions.run(Sources(constant, {}), wanted=wanted(), output=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_check_reports_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = prepare_impressions.check(Sources(rows(20), {}), wanted=wanted())
    assert (report.ok, report.rows_read) == (True, 20)
    assert list(tmp_path.iterdir()) == []
