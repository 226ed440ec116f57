"""Two processes train a model of impressions as one does: the same losses, figures and weights."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from impression_files import prepare, raw_rows
from safetensors.torch import load_file

WORK = Path(__file__).with_name("launched_impressions.py")
spec = importlib.util.spec_from_file_location("launched_impressions", WORK)
assert spec is not None
assert spec.loader is not None
work = importlib.util.module_from_spec(spec)
spec.loader.exec_module(work)


@pytest.fixture(scope="module", autouse=True)
def loopback() -> None:
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            pass
    except OSError as problem:
        pytest.skip(f"processes meet over the loopback network, which is not to be had here: {problem}")


@pytest.fixture(scope="module")
def place(tmp_path_factory, world_log, encoder_folder) -> Path:
    folder = tmp_path_factory.mktemp("launched")
    prepare(world_log, folder / "data", rows=raw_rows(world_log), encoder=encoder_folder)
    for name, text in work.RECIPES.items():
        (folder / f"{name}.toml").write_text(work.BODY + text, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(work.finetune.__file__).parents[2])}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(WORK), str(folder), str(encoder_folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    work.runs(folder, "one", encoder=encoder_folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", work.KINDS)
def test_two_processes_come_to_what_one_does(kind, place) -> None:
    one, two = (json.loads((place / f"{kind}-{name}" / "metrics.json").read_text()) for name in ("one", "two"))
    assert len(one["curves"]) == len(two["curves"]) == (4 if kind == "frozen" else 2)
    for ours, theirs in zip(one["curves"], two["curves"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-4)
        assert ours.get("weights", {}) == pytest.approx(theirs.get("weights", {}), rel=1e-3)
        assert ours["targets"] == theirs["targets"]
        assert ours["validation"] == pytest.approx(theirs["validation"], abs=2e-3)
    for name, figure in one["results"][0]["metrics"].items():
        if name.count("/") == 1 and not name.endswith(("pcoc", "gauc_mean", "gauc_positives", "gauc")):
            assert two["results"][0]["metrics"][name]["value"] == pytest.approx(figure["value"], abs=1e-2), name
    assert ("weights" in one["curves"][0]) == (work.KINDS[kind][2] is not None)
    ours, theirs = (load_file(next((place / f"{kind}-{name}").glob("*.safetensors"))) for name in ("one", "two"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=2e-3, rtol=0, msg=name)
    first, second = (
        pq.read_table(place / f"{kind}-{name}" / "predictions.parquet").to_pandas() for name in ("one", "two")
    )
    assert first["row"].tolist() == second["row"].tolist()
    np.testing.assert_allclose(first["p_ctr"], second["p_ctr"], atol=2e-3)
