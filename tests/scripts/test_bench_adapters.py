"""The measurements run, compare what they say, and write what they print."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from peterrec.encoders import NextItNet
from peterrec.encoders.loading import load_encoder


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    return importlib.import_module("bench_adapters")


def test_a_tiny_bench(bench, encoder_folder, prepared_folder, tmp_path, monkeypatch, capsys):
    shallow = load_encoder(encoder_folder)
    torch.manual_seed(0)
    config = type(shallow.config)(**{**shallow.config.to_dict(), "dilations": (1, 1, 2, 2)})
    monkeypatch.setattr(bench, "load_encoder", lambda _: NextItNet(config).eval())
    output = tmp_path / "bench.json"
    options = ["--epochs", "1", "--repeats", "1", "--users", "16", "--max-length", "12", "--device", "cpu"]
    bench.main(["--data", str(prepared_folder), "--encoder", str(encoder_folder), *options, "--output", str(output)])
    found = json.loads(output.read_text())
    assert found["setting"]["dilations"] == [1, 1, 2, 2]
    assert found["setting"]["receptive_field"] == 13
    assert len(found["results"]) == 11
    assert [row["bar"] for row in found["results"] if row["bar"]] == [100, 3]
    for row in found["results"]:
        assert row["ratio"] == pytest.approx(row["long_seconds"] / row["short_seconds"])
    printed = capsys.readouterr().out
    assert "times faster" in printed


def test_folders_that_are_not_there_are_named(bench, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--data", str(tmp_path / "none")])
    assert "peterrec prepare" in capsys.readouterr().err
