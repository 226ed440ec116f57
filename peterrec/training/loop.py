"""The one training loop: any program, on any device, resumable to the bit."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peterrec.atomic import atomic_file
from peterrec.training.device import open_accelerator
from peterrec.training.divergence import diverged
from peterrec.training.generators import own_generators
from peterrec.training.interrupts import InterruptedRun, Interrupts
from peterrec.training.optimizer import NotFiniteError
from peterrec.training.processes import join
from peterrec.training.program import Program
from peterrec.training.progress import Progress
from peterrec.training.run import Start, TrainingRun
from peterrec.training.settings import TrainingSettings
from peterrec.training.state import Stopped
from peterrec.training.tracking import Tracker

__all__ = ["InterruptedRun", "Program", "TrainingResult", "TrainingSettings", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to; the model holds the weights of `best_epoch`, or of the last one if those are kept."""

    history: list[dict[str, Any]]  # a record an epoch: epoch, step, loss, learning_rate, validation, timings
    best_metric: float | None
    best_epoch: int | None
    epochs: int
    steps: int
    seconds: float  # with validations, summed over resumed processes
    targets_per_second: float  # without validations
    stopped: Stopped


def train(
    program: Program,
    settings: TrainingSettings,
    *,
    checkpoints: Path | None,
    tracker: Tracker,
    progress: Progress,
    metrics_file: Path | None = None,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
    start: Start | None = None,
    start_alone: bool = False,
) -> TrainingResult:
    """Train `program.model` until no validation is better for `patience` of them, or for all epochs.

    The best weights are in the model afterwards, or the last ones if the settings say so. With `checkpoints`, the same
    call goes on after a kill, and on the CPU ends with the same bits as without one. `metrics_file` gets one JSON line
    an epoch.

    `start` readies the model before the first step, on its device; the model is then validated, and stands in the
    history as epoch 0 with the figures that `start` returns, so that what is kept is never worse on the validation.
    With `start_alone` no step is made after it.

    Launched as several processes, all call this with the same program; the main one validates, writes and reports,
    whatever the others were given, and all end with the same weights.

    Raises `DivergedError` before an update with a loss or gradient that is not finite, `InterruptedRun` after
    SIGINT or SIGTERM, `SettingsError` for a device that is not there or checkpoints of other settings,
    `ResourceError` if the disk is full, `LostProcessError` if another process has ended.
    """
    processes = join()
    if not processes.main:
        checkpoints, metrics_file, on_epoch = None, None, None
        tracker, progress = Tracker(), Progress("silent")
    accelerator = open_accelerator(settings, processes=processes)
    run = TrainingRun(program, settings, accelerator, processes=processes, checkpoints=checkpoints, progress=progress)
    interrupts = Interrupts(notify=progress.note)
    try:
        with own_generators(accelerator.device), interrupts.handled():
            figures = run.open(start)
            progress.begin(epochs=settings.epochs, epochs_done=run.state.epoch - 1)
            if figures is not None:
                record, best = run.judge_start(figures, interrupts)
                progress.end_epoch(record, best=best)
                tracker.log(_flat(record), step=0)
            if start_alone:
                run.state.stopped = "epochs"
            if metrics_file is not None and run.state.history:
                _write_lines(metrics_file, run.state.history)
            while run.state.stopped is None:
                record, best = run.epoch(interrupts)
                if metrics_file is not None:
                    _write_lines(metrics_file, run.state.history)
                progress.end_epoch(record, best=best)
                tracker.log(_flat(record), step=record["step"])
                if on_epoch is not None:
                    on_epoch(record)
                run.commit(of_steps=False)
                if processes.any(interrupts.pending):
                    raise run.interrupted()
            run.keep_best()
    except NotFiniteError as problem:
        raise diverged(problem, state=run.state, settings=settings) from None
    except InterruptedRun:
        raise
    except BaseException:
        processes.leave()  # the others shall not wait for this one
        raise
    finally:
        run.close()
        progress.end()
    state = run.state
    assert state.stopped is not None
    return TrainingResult(
        history=state.history,
        best_metric=state.best_metric,
        best_epoch=state.best_epoch,
        epochs=state.epoch - 1,
        steps=state.step,
        seconds=state.seconds,
        targets_per_second=state.targets / max(state.seconds_of_steps, 1e-9),
        stopped=state.stopped,
    )


def _write_lines(path: Path, history: list[dict[str, Any]]) -> None:
    """All records again, so that a resume leaves no line twice."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in history), encoding="utf-8")


def _flat(record: Mapping[str, Any]) -> dict[str, float]:
    """A record as a tracker wants it; figures that are missing are left out."""
    apart = ("epoch", "step", "validation", "losses", "weights")
    train = {f"train/{k}": v for k, v in record.items() if k not in apart}
    train |= {f"train/loss/{k}": v for k, v in record.get("losses", {}).items()}
    train |= {f"train/weight/{k}": v for k, v in record.get("weights", {}).items()}
    validation = {f"validation/{k}": v for k, v in record["validation"].items()}
    return {k: v for k, v in ({"epoch": record["epoch"]} | train | validation).items() if v is not None}
