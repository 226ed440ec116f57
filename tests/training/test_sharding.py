"""Tables shared out over two processes: the same rows, gradients, losses and checkpoints as whole ones."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.table_shard import Owners, TableShard, held_rows
from peterrec.errors import SettingsError
from peterrec.training import sharding
from peterrec.training.sharding import describe_sharding, shard_tables

WORK = Path(__file__).with_name("launched_sharding.py")
spec = importlib.util.spec_from_file_location("launched_sharding", WORK)
assert spec is not None
assert spec.loader is not None
work = importlib.util.module_from_spec(spec)
spec.loader.exec_module(work)


@pytest.fixture(scope="module")
def place(tmp_path_factory, prepared_folder) -> Path:
    """What both processes have done, and what one did alone (in `one`)."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            pass
    except OSError as problem:
        pytest.skip(f"processes meet over the loopback network, which is not to be had here: {problem}")
    folder = tmp_path_factory.mktemp("sharded")
    shutil.copytree(prepared_folder, folder / "prepared")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(sharding.__file__).parents[2])}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(WORK), str(folder)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[:4000]
    alone = work.settings("lazy_adam", shard=False)
    work.pretrain.run(folder / "prepared", output=folder / "one", settings=alone, progress="silent")
    return folder


@pytest.fixture(scope="module")
def told(place) -> list[dict]:
    return [json.loads((place / f"told-{number}.json").read_text()) for number in (0, 1)]


def test_each_process_gets_the_rows_it_asks_for(told) -> None:
    table = work.table().numpy()
    table[0] = 0  # padding
    for number in (0, 1):
        for found, asked in zip(told[number]["lookups"], [*work.ASKED, *work.ASKED], strict=True):
            ids = np.array(asked[number], dtype=np.int64)
            np.testing.assert_array_equal(np.array(found["rows"]).reshape(*ids.shape, work.WIDTH), table[ids])


def test_the_gradient_is_the_sum_over_processes_and_pieces(told) -> None:
    for case, asked in enumerate([*work.ASKED, *work.ASKED]):
        wanted = np.zeros((work.ROWS, work.WIDTH))
        for each in asked:
            ids = np.array(each, dtype=np.int64)
            np.add.at(wanted, ids, 3 * work.weights((*ids.shape, work.WIDTH)).numpy())  # pieces of weight 1 and 2
        wanted[0] = 0  # padding
        for number in (0, 1):
            np.testing.assert_array_equal(told[number]["lookups"][case]["gradient"], wanted)


def test_parts_make_the_whole_and_the_spare_row_stays_zero(told) -> None:
    for number, held in ((0, 16), (1, 15)):
        for found in told[number]["lookups"]:
            assert found["held"] == held
            assert found["whole"]
            assert found["part"]
            assert found["spare"] == [0, 0]


@pytest.mark.parametrize("case", work.CASES)
def test_steps_and_checkpoints_are_those_of_whole_tables(told, case) -> None:
    for number in (0, 1):
        found = told[number]["trainings"][case]
        sharded, back, whole = found["losses"]
        assert len(whole) == 2 * work.STEPS
        np.testing.assert_allclose(sharded, whole, rtol=1e-5)  # the second half from the other's checkpoint
        np.testing.assert_allclose(back, whole, rtol=1e-5)
        assert found["difference"] < 5e-5
        assert max(found["gone on"]) < 5e-5
        assert found["moved"] > 1e-3
        assert any(name.startswith("best/embed") for name in found["tensors"])


@pytest.mark.parametrize("case", work.CASES)
def test_each_process_holds_its_part_of_tables_and_of_their_state(told, case) -> None:
    rows = {number: told[number]["trainings"][case]["held"]["embed_tokens.weight"][0] - 1 for number in (0, 1)}
    assert sum(rows.values()) == 103
    assert abs(rows[0] - rows[1]) == 1
    for number in (0, 1):
        found = told[number]["trainings"][case]
        assert ("output.weight" in found["held"]) == (case == "lazy_adam")
        assert found["state"]
        assert set(found["state"].values()) == {rows[number] + 1}


def test_all_processes_make_as_many_pieces_and_count_each_once(told) -> None:
    ours, theirs = (told[number]["trainings"]["dense"]["pieces"] for number in (0, 1))
    assert [made for made, _ in ours] == [made for made, _ in theirs]
    assert any(mine != other for (_, mine), (_, other) in zip(ours, theirs, strict=True))


def test_tables_are_lent_whole_and_put_back(told) -> None:
    for number in (0, 1):
        found = told[number]["tables"]
        assert found["looked up"]
        assert found["sharded again"] == 2
        assert found["left"] == 0
        assert found["kind"] == ["TimeMajorEmbedding", 0, False]
        assert found["whole"]
    assert told[0]["tables"]["lent"]
    assert told[0]["tables"]["scores"]


def test_pretraining_ends_with_the_encoder_of_one_process(place) -> None:
    ours, theirs = (load_file(place / name / "model.safetensors") for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-5, rtol=0)
    curves = [json.loads((place / name / "metrics.json").read_text())["curves"] for name in ("two", "one")]
    for two, one in zip(*curves, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["validation"] == pytest.approx(one["validation"], abs=1e-3)


def owners(number: int) -> Owners:
    return Owners(number=number, count=2, largest=lambda number: number)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("number", [0, 1])
def test_a_device_that_must_not_wait_gets_the_same(sparse, number) -> None:
    asked = torch.tensor([4, -1, 0, 4, 30, 16, 15, -1])
    found = {}
    for compact in (True, False):
        shard = TableShard.of(work.table().requires_grad_(), owners(number))
        rows = held_rows(shard, asked, sparse=sparse, padding_idx=0, compact=compact)
        (rows * work.weights(tuple(rows.shape))).sum().backward()
        gradient = shard.grad.to_dense() if sparse else shard.grad
        found[compact] = rows.detach(), gradient
    torch.testing.assert_close(found[False], found[True], rtol=0, atol=0)
    assert found[True][1].any()


def test_on_a_device_nothing_asks_for_values() -> None:
    shard = TableShard.of(work.table().to("meta").requires_grad_(), owners(1))
    asked = torch.zeros(5, dtype=torch.int64, device="meta")
    rows = held_rows(shard, asked, sparse=False, padding_idx=0, compact=False)
    rows.sum().backward()
    assert rows.shape == (5, work.WIDTH)
    assert shard.grad is not None


def encoder(rows: int = 31) -> NextItNet:
    return NextItNet(NextItNetConfig(vocab_size=rows, hidden_size=4, dilations=(1, 2)))


def test_one_process_has_nothing_to_shard_over() -> None:
    with pytest.raises(SettingsError, match="torchrun"):
        shard_tables(encoder(), sampled=True)


def test_the_exact_softmax_and_small_tables_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(sharding, "join", lambda: SimpleNamespace(number=0, count=4))
    with pytest.raises(SettingsError, match="softmax=sampled"):
        shard_tables(encoder(), sampled=False)
    with pytest.raises(SettingsError, match="9 rows do not go round among 4 processes"):
        shard_tables(encoder(9), sampled=True)
    sharded = encoder()
    shard_tables(sharded, sampled=True)
    assert describe_sharding(sharded) == "Item table sharded over 4 processes, 8 of 31 rows each at most."
    with pytest.raises(SettingsError, match="shard_tables"):
        sharded.score_table()
