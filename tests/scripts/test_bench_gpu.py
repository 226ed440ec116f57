"""The GPU benchmark says when there is no GPU, and measures what it says on tiny shapes on the CPU."""

import importlib
import json
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("bench_gpu")


def test_without_a_gpu_it_says_so(script, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        script.main([])
    assert ended.value.code == 2
    assert "no CUDA device here" in capsys.readouterr().err


def test_tiny_shapes_run_on_the_cpu(script, tmp_path, capsys):
    output = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--quick", "--eager", "--budget", "0", "--precision", "fp32"]
    script.main([*arguments, "--output", str(output)])
    assert "### Training step, D = 16, fp32" in capsys.readouterr().out
    (table, _) = json.loads(output.read_text(encoding="utf-8"))["tables"]
    rows = {row["who"]: row for row in table["rows"]}
    assert set(rows) == {"peterrec, exact", "peterrec, sampled", "naive, 4 users"}
    for row in rows.values():
        assert row["targets"] == 48
        assert row["rate"] == pytest.approx(48e3 / row["ms"])
    assert rows["peterrec, exact"]["over_naive"] == pytest.approx(
        rows["peterrec, exact"]["rate"] / rows["naive, 4 users"]["rate"]
    )


def test_the_least_bytes_of_a_step(script, tmp_path):
    """Counted by hand: four convolutions, a dense table."""
    workload = script.Workload(200, 12, 16, 4, 4)
    conditions = script.Conditions(threads=1, quick=True)
    train = script.full_histories(workload, tmp_path / "train")
    step = script.PeterrecStep(workload, conditions, train=train)
    parameters = 200 * 16 + 4 * (3 * 16 * 16 + 16) + 4 * 2 * 16
    activations = 4 * 5 * 48 * 16 + 4 * 48 * 16  # input and output, gradients of both, input again; the head's states
    wanted = 4 * activations + 7 * 4 * parameters + 4 * 3 * 200 * 16
    assert script.least_bytes(workload, step, softmax="exact", size=4) == wanted
