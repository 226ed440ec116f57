"""Two processes train what one does: the same losses, figures and weights, from each other's checkpoints."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from peterrec.training.processes import LostProcessError, Processes

WORK = Path(__file__).with_name("launched_trainings.py")
spec = importlib.util.spec_from_file_location("launched_trainings", WORK)
assert spec is not None
assert spec.loader is not None
work = importlib.util.module_from_spec(spec)
spec.loader.exec_module(work)

TASK = """
kind = "classification"
column = "gender"
readout = "mean"
adapter = "serial"
class_weights = true
metrics = ["accuracy", "roc_auc", "log_loss"]
metric = "roc_auc"
max_length = 50
seeds = [0]
[head]
hidden = []
dropout = 0.0
[split]
by = "user"
fractions = [0.6, 0.2, 0.2]
stratified = true
[training]
epochs = 2
"""


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


def launch(*arguments: str | Path, **options) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(work.pretrain.__file__).parents[2])}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*torchrun, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory, prepared_folder) -> Path:
    """What both have done: files of two processes end in `-two`, of one in `-one`."""
    folder = tmp_path_factory.mktemp("launched")
    shutil.copytree(prepared_folder, folder / "prepared")
    (folder / "gender.toml").write_text(TASK, encoding="utf-8")
    settings = work.load_settings(work.pretrain.PretrainSettings, overrides=work.PRETRAINING)
    work.pretrain.run(folder / "prepared", output=folder / "encoder", settings=settings, progress="silent")
    work.interrupted(work.Regression(signal_at=9), folder / "checkpoints-one")
    process = launch(WORK, folder)
    said, _ = process.communicate(timeout=280)
    assert process.returncode == 0, said
    work.stages(folder, "one")
    return folder


@pytest.fixture(scope="module")
def told(place) -> list[dict]:
    return [json.loads((place / f"told-{number}.json").read_text()) for number in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> dict:
    program = work.Regression()
    return work.story(program, work.run(program, None))


def assert_equal(found: dict, wanted: dict) -> None:
    np.testing.assert_allclose(found["history"], wanted["history"], rtol=1e-5)
    assert found["best_epoch"] == wanted["best_epoch"]
    for name, values in wanted["weights"].items():
        np.testing.assert_allclose(found["weights"][name], values, atol=2e-5, err_msg=name)


def test_what_is_shared_arrives(told) -> None:
    for one in told:
        assert one["shared"] == 0
        assert one["tensors"] == {
            "half": ["torch.bfloat16", [[0.5] * 3] * 2],
            "count": ["torch.int64", 4],
            "no": ["torch.float32", []],
        }
        assert one["met"] == [[0, 7], [1, 7]]
        assert one["any"] == [True, False]


def test_two_processes_train_as_one_does_and_end_with_the_same_bits(told, alone) -> None:
    assert told[0]["whole"]["digest"] == told[1]["whole"]["digest"]
    assert_equal(told[0]["whole"], alone)


def test_what_no_process_has_a_gradient_for_stays(told) -> None:
    unused = torch.tensor(told[1]["whole"]["weights"]["unused.weight"])
    assert torch.equal(unused, work.Net().unused.weight)


def test_one_process_validates_and_writes(told, place) -> None:
    assert [one["whole"]["validations"] for one in told] == [3, 0]
    assert (place / "checkpoints-whole" / "0").is_dir()
    assert not (place / "checkpoints-whole" / "1").exists()


def test_two_go_on_where_one_stopped(told, alone) -> None:
    assert told[0]["gone on"]["digest"] == told[1]["gone on"]["digest"]
    assert_equal(told[1]["gone on"], alone)


def test_a_signal_to_any_stops_all_and_one_goes_on(told, alone, place) -> None:
    assert [one["interrupted"] for one in told] == [
        "Interrupted in epoch 2 after step 10; run the same command to go on.",
        "Interrupted in epoch 2 after step 10; nothing was saved.",
    ]
    program = work.Regression()
    result = work.run(program, place / "checkpoints-two")
    assert program.made == 11
    assert_equal(work.story(program, result), alone)


@pytest.mark.parametrize("stage", ["encoder", "task"])
def test_a_stage_comes_to_the_same(stage, place) -> None:
    one, two = (json.loads((place / f"{stage}-{name}" / "metrics.json").read_text()) for name in ("one", "two"))
    assert len(one["curves"]) == len(two["curves"]) == (2 if stage == "encoder" else 4)
    for ours, theirs in zip(one["curves"], two["curves"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["targets"] == theirs["targets"]
        assert ours["validation"] == pytest.approx(theirs["validation"], abs=1e-3)
    for name, figure in one["results"][0]["metrics"].items():
        assert two["results"][0]["metrics"][name]["value"] == pytest.approx(figure["value"], abs=1e-2)
    weights = "model.safetensors" if stage == "encoder" else "adapter_model.safetensors"
    ours, theirs = (load_file(place / f"{stage}-{name}" / weights) for name in ("one", "two"))
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-3, rtol=0, msg=name)


def test_predictions_are_those_of_one(place) -> None:
    ours, theirs = (
        pq.read_table(place / f"task-{name}" / "predictions.parquet").to_pandas() for name in ("one", "two")
    )
    assert (ours["user"] == theirs["user"]).all()
    np.testing.assert_allclose(ours["p_f"], theirs["p_f"], atol=1e-3)


def test_an_error_of_the_main_process_ends_the_launch_and_is_said_once(place) -> None:
    began = time.monotonic()
    process = launch("-m", "peterrec", "pretrain", place / "prepared", "-o", place / "encoder")
    said, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    assert time.monotonic() - began < 150  # not the half hour that collectives wait
    ours = [line for line in said.splitlines() if "holds a finished run; add --overwrite" in line]
    assert len(ours) == 1
    assert "peterrec/" not in said.replace(str(place), "")  # no traceback of ours
    assert "exitcode  : 2" in said


@pytest.mark.slow
def test_accelerate_launches_as_many(tmp_path) -> None:
    told = tmp_path / "told.py"
    told.write_text(
        "import sys; from pathlib import Path; import torch.distributed as dist\n"
        "from peterrec.training.processes import join\n"
        "processes = join()\n"
        "met = processes.meet([processes.number]).tolist()\n"
        "text = f'{dist.get_world_size()} {processes.count} {met}'\n"
        "Path(sys.argv[1], str(processes.number)).write_text(text)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(work.pretrain.__file__).parents[2])}
    options = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options, "--num_processes", "2"]
    port = ["--main_process_port", "0"]
    done = subprocess.run(
        [*launcher, *port, str(told), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(tmp_path / number).read_text() for number in "01"] == ["2 2 [[0], [1]]"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1, "all"])
def test_a_signal_from_the_launcher_leaves_a_run_that_goes_on(which, place, tmp_path) -> None:
    output, settings = tmp_path / "run", [word for one in work.PRETRAINING for word in ("--set", one)]
    command = ["pretrain", place / "prepared", "-o", output, *settings, "--set", "training.epochs=400"]
    process = launch("-m", "peterrec", *command, "--set", "training.patience=0")
    deadline = time.monotonic() + 200
    while not (output / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.2)
    if which == 0:
        process.send_signal(signal.SIGTERM)  # the launcher tells all
    elif which == "all":
        children = [_child(process.pid, number=number) for number in (0, 1)]
        for one in (*children, process.pid):  # told directly, and by the launcher once more
            os.kill(one, signal.SIGINT)
    else:
        os.kill(_child(process.pid, number=1), signal.SIGINT)
    said, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    assert said.count("Interrupted in epoch") == 1
    assert "lost another one" not in said
    assert list((output / "checkpoints").glob("step-*"))
    assert not (output / ".lock.holder").exists()


def _child(launcher: int, *, number: int) -> int:
    for children in Path(f"/proc/{launcher}/task").glob("*/children"):
        for child in children.read_text().split():
            if f"\0RANK={number}\0" in Path(f"/proc/{child}/environ").read_text():
                return int(child)
    raise AssertionError("no such process")


def test_what_went_wrong_stands_beside_what_it_probably_means(monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise problem

    processes = Processes()
    processes.count, processes._group = 2, object()  # type: ignore[assignment]  # it is handed on alone
    monkeypatch.setattr(processes, "meet", lambda numbers=(): np.array([list(numbers)] * 2))
    monkeypatch.setattr("peterrec.training.processes.sum_dense", fail)
    problem: Exception = RuntimeError("boom in the exchange\nC++ frames")
    with pytest.raises(LostProcessError, match=r"cannot be reached \(boom in the exchange\); see"):
        processes.sum_gradients([torch.nn.Parameter(torch.ones(2))], loss=torch.tensor(1.0), stop=False)
    problem = torch.AcceleratorError("device-side assert")
    with pytest.raises(torch.AcceleratorError, match="device-side"):
        processes.sum_gradients([torch.nn.Parameter(torch.ones(2))], loss=torch.tensor(1.0), stop=False)


def test_alone_nothing_changes() -> None:
    processes = Processes()
    loss, parameter = torch.tensor(2.0), torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 5.0)
    assert processes.main
    assert processes.sum_gradients([parameter], loss=loss, stop=True)
    assert loss == 2
    assert parameter.grad.tolist() == [5, 5, 5]
    assert processes.share({"a": 1}) == {"a": 1}
    assert processes.meet([3]).tolist() == [[3]]
    with processes.job("pretrain", {}):
        pass
    processes.end()
