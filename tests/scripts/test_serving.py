"""The measurement runs, with all systems."""

import importlib
import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_tiny_measurement(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    script = importlib.import_module("serving")
    small = ["--items", "200", "--channels", "8", "--blocks", "1", "--users", "10", "--clients", "2", "--threads", "1"]
    script.main([str(tmp_path / "out.json"), *small, "--seconds", "0.3"])
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found["systems"]) == {"heads", "mixed", "full"}
    for own in found["systems"].values():
        assert min(own["throughput"].values()) > 0
        assert all(0 < one["p50_ms"] <= one["p99_ms"] for one in own["latency"].values())
    assert found["systems"]["full"]["files"] > found["systems"]["mixed"]["files"] > found["systems"]["heads"]["files"]
