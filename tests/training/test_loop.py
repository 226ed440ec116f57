"""The training loop: it learns, stops, resumes to the bit, and never updates with what is not finite."""

import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from peterrec.errors import DataError, DivergedError, RefusedError, SettingsError
from peterrec.settings import dump
from peterrec.training import optimizer
from peterrec.training.checkpoint import commit, load_latest
from peterrec.training.generators import own_generators, seed_generators
from peterrec.training.loop import InterruptedRun, TrainingResult, TrainingSettings, train
from peterrec.training.pretraining_settings import PretrainingSettings
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker

torch.set_num_threads(1)
SETTINGS = TrainingSettings(
    epochs=4, learning_rate=0.02, warmup=5, patience=0, checkpoint_every=3, device="cpu", seed=5
)


class Net(nn.Module):
    """A frozen part, an embedding, a norm, dropout, running statistics: all kinds of state there are."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.items = nn.Embedding(20, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.norm = nn.LayerNorm(8)
        self.running = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(8, 1)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        mean = self.items(rows).mean(1)
        return self.out(self.dropout(self.norm(torch.relu(self.frozen(mean))) + self.running(mean)))[:, 0]


class Regression:
    """Users of four items; the target is the sum of hidden item values. `at` is called around each step."""

    metric = "fit"

    def __init__(self, at: Callable[[str, int], None] = lambda where, number: None) -> None:
        rng = np.random.default_rng(3)
        self.model = Net()
        self.rows = torch.from_numpy(rng.integers(0, 20, (160, 4)))
        self.y = torch.from_numpy(rng.normal(size=20)).float()[self.rows].sum(1)
        self.at = at
        self.steps_made = self.validations = 0

    def steps(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng((1, epoch)).permutation(128)
        return np.array_split(order, 7 + epoch % 2)  # epochs differ in length

    def num_targets(self, step: np.ndarray) -> int:
        return len(step)

    def weight(self, step: np.ndarray) -> float:
        return len(step)

    def pieces(self, step: np.ndarray, *, part: int, parts: int) -> list[np.ndarray]:
        return [step[part::parts]]

    def loss(self, step: np.ndarray, device: torch.device) -> tuple[torch.Tensor, float]:
        self.at("step", self.steps_made)
        self.steps_made += 1
        noise = float(np.random.normal()) + torch.rand(())  # whatever a program draws is seeded
        loss = (self.model(self.rows[step].to(device)) - self.y[step]).square().mean()
        return loss + 0 * noise + 1e-3 * noise.detach() * self.model.out.weight.sum(), len(step)

    def validate(self) -> dict[str, float]:
        self.at("validation", self.validations)
        self.validations += 1
        assert not self.model.training
        assert not torch.is_grad_enabled()
        error = (self.model(self.rows[128:]) - self.y[128:]).square().mean().item()
        return {"fit": -error, "drawn": float(torch.rand(()))}


def run(program: Regression, settings: TrainingSettings = SETTINGS, **where: Path) -> TrainingResult:
    return train(
        program,
        settings,
        checkpoints=where.get("checkpoints"),
        metrics_file=where.get("metrics_file"),
        tracker=Tracker(),
        progress=Progress("silent"),
    )


def fingerprint(program: Regression, result: TrainingResult) -> str:
    """SHA-256 of all weights and of the history without timings."""
    digest = hashlib.sha256()
    for name, tensor in program.model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    timings = {"seconds", "targets_per_second"}
    history = [{k: v for k, v in record.items() if k not in timings} for record in result.history]
    digest.update(json.dumps([history, result.best_metric, result.best_epoch, result.steps]).encode())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def uninterrupted() -> str:
    program = Regression()
    return fingerprint(program, run(program))


def test_it_learns_and_tells_what_happened() -> None:
    program = Regression()
    told = []
    result = train(
        program,
        SETTINGS.model_copy(update={"epochs": 30}),
        checkpoints=None,
        tracker=Tracker(),
        progress=Progress("silent"),
        on_epoch=told.append,
    )
    assert result.history[0]["loss"] > 4 * result.history[-1]["loss"]
    assert told == result.history
    assert [r["epoch"] for r in told] == list(range(1, 31))
    assert result.steps == told[-1]["step"] == sum(7 + e % 2 for e in range(1, 31))
    assert all(r["targets"] == 128 for r in told)
    assert result.stopped == "epochs"
    assert 0 < sum(r["seconds"] for r in told) <= result.seconds
    assert result.targets_per_second > 0
    assert not program.model.training


def test_a_step_is_adamw_with_decay_on_matrices_only() -> None:
    program, twin = Regression(), Regression()
    settings = SETTINGS.model_copy(update={"epochs": 1, "weight_decay": 0.5, "clip": 0.1})
    run(program, settings)
    decaying = [twin.model.out.weight]
    others = [twin.model.items.weight, *twin.model.norm.parameters(), *twin.model.running.parameters()]
    others.append(twin.model.out.bias)
    reference = torch.optim.AdamW(
        [{"params": decaying, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}], fused=False
    )
    cpu = torch.device("cpu")
    steps = twin.steps(1)
    with own_generators(cpu):
        for number, step in enumerate(steps):
            seed_generators(settings.seed, purpose="step", number=number, device=cpu)
            loss, _ = twin.loss(step, cpu)
            reference.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*decaying, *others], 0.1)
            half_wave = 0.5 * (1 + math.cos(math.pi * (number - 5) / (len(steps) - 5)))
            rate = 0.02 * ((number + 1) / 5 if number < 5 else half_wave)
            for group in reference.param_groups:
                group["lr"] = rate
            reference.step()
    for (name, p), q in zip(program.model.named_parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_keep_their_bytes_under_weight_decay() -> None:
    program = Regression()
    before = {n: p.detach().clone() for n, p in program.model.named_parameters()}
    run(program, SETTINGS.model_copy(update={"weight_decay": 0.3}))
    for name, parameter in program.model.named_parameters():
        same = parameter.detach().numpy().tobytes() == before[name].numpy().tobytes()
        assert same == name.startswith("frozen"), name


class Scripted(Regression):
    """Validation values come from a list; the weights at each validation are noted."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values
        self.seen: list[bytes] = []

    def bytes(self) -> bytes:
        return b"".join(t.numpy().tobytes() for t in self.model.state_dict().values())

    def validate(self) -> dict[str, float]:
        self.seen.append(self.bytes())
        return {"fit": self.values[len(self.seen) - 1]}


@pytest.mark.parametrize(
    ("values", "patience", "every", "best", "epochs", "stopped"),
    [
        ([1, 3, 2, 3, 2, 9], 3, 1, 2, 5, "patience"),  # equal is not better
        ([1, 3, 2, 4, 2, 1], 2, 1, 4, 6, "epochs"),
        ([1, 3, 2, 4, 2, 1], 0, 1, 4, 6, "epochs"),
        ([5, 4, 3, 2, 1, 0], 1, 1, 1, 2, "patience"),
        ([1, 2, 1], 0, 2, 4, 6, "epochs"),  # validations after epochs 2, 4, 6
        ([2, 1, 0], 1, 2, 2, 4, "patience"),
        ([math.nan, 1, math.nan, math.nan, 5, 5], 2, 1, 2, 4, "patience"),
        ([math.nan] * 6, 0, 1, None, 6, "epochs"),
    ],
)
def test_early_stopping_keeps_the_best_epoch(values, patience, every, best, epochs, stopped) -> None:
    program = Scripted(values)
    settings = SETTINGS.model_copy(update={"epochs": 6, "patience": patience, "validate_every": every})
    result = run(program, settings)
    assert (result.best_epoch, result.epochs, result.stopped) == (best, epochs, stopped)
    kept = program.seen[-1] if best is None else program.seen[best // every - 1]
    assert program.bytes() == kept
    assert result.best_metric == (None if best is None else values[best // every - 1])


def test_the_last_epoch_can_be_kept_whatever_its_validation() -> None:
    program = Scripted([1, 3, 2, 1])
    settings = PretrainingSettings.model_validate({**dump(SETTINGS), "patience": 1, "keep": "last"})
    result = run(program, settings)
    assert (result.best_epoch, result.best_metric, result.epochs, result.stopped) == (2, 3, 4, "epochs")
    assert program.bytes() == program.seen[-1]
    assert program.bytes() != program.seen[1]


def test_the_best_weights_survive_a_kill(tmp_path: Path) -> None:
    values = [1.0, 3.0, 2.0, 1.0]
    killed = Scripted(values)
    killed.at = kill_at(("step", 25))  # in the fourth epoch
    with pytest.raises(Killed):
        run(killed, checkpoints=tmp_path)
    program = Scripted(values[3:])
    result = run(program, checkpoints=tmp_path)
    assert (result.best_epoch, result.best_metric) == (2, 3.0)
    assert program.bytes() == killed.seen[1]


class Killed(Exception):
    pass


def kill_at(*moments: tuple[str, int]) -> Callable[[str, int], None]:
    def at(where: str, number: int) -> None:
        if (where, number) in moments:
            raise Killed

    return at


@pytest.mark.parametrize(
    "kills",
    [
        [("step", 0)],
        [("step", 4)],  # mid-epoch
        [("step", 12), ("step", 3)],  # twice in one epoch (both in the second)
        [("step", 7), ("step", 1)],  # the last step of the first epoch, then the first of the second
        [("step", 8)],  # the epoch's edge
        [("validation", 0)],
        [("validation", 2), ("validation", 0)],
        [("step", 2), ("step", 9), ("validation", 1), ("step", 4), ("validation", 0)],
    ],
)
def test_a_resumed_run_is_bit_identical(tmp_path: Path, uninterrupted: str, kills: list) -> None:
    for kill in kills:
        with pytest.raises(Killed):
            run(Regression(kill_at(kill)), checkpoints=tmp_path / "c", metrics_file=tmp_path / "m.jsonl")
    program = Regression()
    result = run(program, checkpoints=tmp_path / "c", metrics_file=tmp_path / "m.jsonl")
    assert fingerprint(program, result) == uninterrupted
    assert [json.loads(x) for x in (tmp_path / "m.jsonl").read_text().splitlines()] == result.history
    # and once more after the end: nothing is trained again
    again = Regression(kill_at(("step", 0), ("validation", 0)))
    assert fingerprint(again, run(again, checkpoints=tmp_path / "c")) == uninterrupted


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from test_loop import Regression, run, fingerprint

def at(where, number):
    if (where, number) == (sys.argv[2], int(sys.argv[3])):
        print("there", flush=True)
        time.sleep(60)

program = Regression(at)
print(fingerprint(program, run(program, checkpoints=Path(sys.argv[1]))))
"""


def test_a_real_sigkill_and_a_sigterm_resume_too(tmp_path: Path, uninterrupted: str) -> None:
    script = SCRIPT.format(here=str(Path(__file__).parent))

    def start(where: str, number: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "c"), where, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with start("step", 12) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "there\n"
        killed.kill()
    assert (tmp_path / "c" / "step-00000012").exists()
    with start("validation", 0) as terminated:  # the loop saves what it has even within a validation
        assert terminated.stdout is not None
        assert terminated.stderr is not None
        assert terminated.stdout.readline() == "there\n"
        terminated.send_signal(signal.SIGTERM)
        assert "InterruptedRun: Interrupted in epoch 2 after step 15" in terminated.stderr.read()
    program = Regression(kill_at(("step", 30 - 15)))  # 15 more steps, and no step twice
    assert fingerprint(program, run(program, checkpoints=tmp_path / "c")) == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [("step", 4), ("step", 7), ("validation", 1)])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(
    tmp_path: Path, uninterrupted: str, number: int, moment: tuple[str, int]
) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def at(*now: object) -> None:
        if now == moment:
            os.kill(os.getpid(), number)

    interrupted = Regression(at)
    with pytest.raises(InterruptedRun, match="run the same command to go on") as caught:
        run(interrupted, checkpoints=tmp_path)
    assert caught.value.exit_code == 130
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    program = Regression()
    assert fingerprint(program, run(program, checkpoints=tmp_path)) == uninterrupted
    assert interrupted.steps_made + program.steps_made == 30  # no step was lost
    with pytest.raises(InterruptedRun, match="nothing was saved"):
        run(Regression(at))


def test_a_second_signal_stops_at_once() -> None:
    def at(where: str, number: int) -> None:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(Regression(at))


def test_it_trains_in_a_side_thread(uninterrupted: str) -> None:
    found = []

    def work() -> None:
        program = Regression()
        found.append(fingerprint(program, run(program)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [uninterrupted]


class Poisoned(Regression):
    """At step `bad`, and there only, the loss or its gradient is not finite."""

    def __init__(self, bad: int, what: str) -> None:
        super().__init__()
        self.bad, self.what = bad, what
        self.noted: dict[str, torch.Tensor] = {}

    def loss(self, step: np.ndarray, device: torch.device) -> tuple[torch.Tensor, float]:
        if self.steps_made == self.bad:
            self.noted = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        loss, targets = super().loss(step, device)
        if self.steps_made == self.bad + 1:
            if self.what == "gradient":
                loss = loss + (self.model.out.weight.sum() * 0).abs().sqrt()  # 0 with slope infinity times 0
            else:
                loss = loss * float(self.what)
        return loss, targets


@pytest.mark.parametrize("what", ["nan", "inf", "gradient"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("deferred", [False, True])
def test_what_is_not_finite_never_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, clip: float, deferred: bool
) -> None:
    if deferred:  # the way of a CUDA device, on which nothing waits for the numbers
        create = optimizer.Updater.__init__

        def patched(self, *args, **kwargs) -> None:
            create(self, *args, **kwargs)
            self._deferred, self._bad_step = True, torch.tensor(-1)
            looks = iter(range(10**6))
            check = self.check
            self.check = lambda: check() if next(looks) % 4 == 3 else None

        monkeypatch.setattr(optimizer.Updater, "__init__", patched)
    program = Poisoned(10, what)
    settings = SETTINGS.model_copy(update={"clip": clip, "checkpoint_every": 0})
    with pytest.raises(DivergedError) as caught:
        run(program, settings, checkpoints=tmp_path)
    message = str(caught.value)
    assert "epoch 2 at its step 3 (step 11 in all)" in message
    assert "Lower learning_rate (now 0.02)" in message
    assert caught.value.exit_code == 5
    for name, parameter in program.model.named_parameters():
        assert torch.equal(parameter, program.noted[name]), name
        assert parameter.grad is None
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000008"]


def test_the_callers_generators_are_left_alone() -> None:
    def states() -> tuple:
        return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()

    program = Regression()
    before = states()
    run(program)
    assert states() == before


def test_seeds_matter() -> None:
    prints = []
    for seed in (0, 1):
        program = Regression()
        prints.append(fingerprint(program, run(program, SETTINGS.model_copy(update={"seed": seed}))))
    assert len(set(prints)) == 2


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    run(Regression(), SETTINGS.model_copy(update={"epochs": 1}), checkpoints=tmp_path)
    with pytest.raises(SettingsError, match=r"epochs \(1 before, 4 now\)"):
        run(Regression(), checkpoints=tmp_path)
    found = load_latest(tmp_path)
    assert found is not None
    del found.facts["settings"]["table_update"]
    commit(tmp_path, step=found.step, tensors=found.tensors, facts=found.facts)
    with pytest.raises(SettingsError, match=r"table_update \(no such setting before, .*another version of peterrec"):
        run(Regression(), SETTINGS.model_copy(update={"epochs": 1}), checkpoints=tmp_path)
    found.facts["settings"] |= {"table_update": SETTINGS.table_update, "shard_tables": True}
    commit(tmp_path, step=found.step, tensors=found.tensors, facts=found.facts)
    run(Regression(), SETTINGS.model_copy(update={"epochs": 1}), checkpoints=tmp_path)  # where tables stand is free
    other = Regression()
    other.model.out = nn.Linear(8, 1, bias=False)
    with pytest.raises(RefusedError, match="another model"):
        run(other, SETTINGS.model_copy(update={"epochs": 1}), checkpoints=tmp_path)
    frozen = Regression()
    frozen.model.requires_grad_(False)
    with pytest.raises(SettingsError, match="nothing to train"):
        run(frozen)
    empty = Regression()
    empty.steps = lambda epoch: []  # type: ignore[method-assign]
    with pytest.raises(DataError, match="no batches"):
        run(empty)
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="device=cuda"):
            run(Regression(), SETTINGS.model_copy(update={"device": "cuda"}))


def test_precisions_can_change_within_one_process() -> None:
    results = []
    for precision in ("fp32", "bf16", "auto"):
        program = Regression()
        results.append(fingerprint(program, run(program, SETTINGS.model_copy(update={"precision": precision}))))
    assert results[0] == results[2] != results[1]  # auto is fp32 on a CPU


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_model_trains_to_the_same(uninterrupted: str) -> None:
    program, twin = Regression(), Regression()
    compiled = run(program, SETTINGS.model_copy(update={"compile": True}))
    plain = run(twin)
    assert compiled.best_metric == pytest.approx(plain.best_metric, rel=0.3)
    assert program.model._compiled_call_impl is None
