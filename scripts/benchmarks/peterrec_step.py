"""The product's own training step, and all use that the step and the epoch make of the product's interface.

A step is what `TrainingRun` does with one of `PretrainingProgram.steps`: reading the windows from the mapped file,
pieces, forward, loss, backward, the norm of the gradient, the update. The events lie in a folder of the product's
format.
"""

import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.conditions import Conditions
from benchmarks.workload import KERNEL, Workload
from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.settings import EncoderSettings
from peterrec.objectives.settings import ObjectiveSettings
from peterrec.stages.pretrain import PretrainSettings, build_encoder
from peterrec.training.device import open_accelerator
from peterrec.training.interrupts import Interrupts
from peterrec.training.pretraining import PretrainingProgram, PretrainingSettings
from peterrec.training.processes import join
from peterrec.training.progress import Progress
from peterrec.training.run import TrainingRun
from peterrec.training.step import Step
from peterrec.training.window_steps import FEWEST_STEPS

Softmax = Literal["exact", "sampled"]
NEGATIVES = 1024


def negatives_of(vocabulary: int) -> int:
    """How many negatives a sampled softmax takes: at most a third of the catalogue, for tiny ones."""
    return min(NEGATIVES, vocabulary // 3)


def write_sequences(folder: Path, flat: NDArray[np.integer], lengths: NDArray[np.integer]) -> Sequences:
    """Histories of `lengths` `(U,)`, one after the other in `flat`, as a part of a prepared log."""
    with SequenceWriter(folder) as writer:
        names = pa.array([str(user) for user in range(len(lengths))])
        writer.write(names, flat.astype(np.int32), lengths)
    return Sequences(folder)


def full_histories(workload: Workload, folder: Path) -> Sequences:
    """As many users with `length` + 1 events each as fill the fewest batches that the product trains on."""
    events = workload.histories(FEWEST_STEPS * workload.users)
    return write_sequences(folder, events.reshape(-1), np.full(len(events), events.shape[1]))


def settings_of(
    workload: Workload,
    conditions: Conditions,
    *,
    softmax: Softmax,
    dropout: float,
    tcl_rate: float,
    compiled: bool = False,
) -> PretrainSettings:
    """The product's settings for that workload: clipping off, a constant learning rate."""
    objective = {"tcl_rate": tcl_rate, "softmax": softmax, "negatives": negatives_of(workload.vocabulary)}
    training = {
        "positions": workload.positions,
        "device": conditions.device,
        "precision": conditions.precision,
        "compile": compiled,
        "clip": 0.0,
        "warmup": 0,
        "schedule": "constant",
    }
    encoder = {
        "kind": "nextitnet",
        "hidden_size": workload.channels,
        "dilations": workload.dilations,
        "kernel_size": KERNEL,
        "dropout": dropout,
        "max_length": workload.length,
    }
    return PretrainSettings(
        encoder=EncoderSettings.model_validate(encoder),
        objective=ObjectiveSettings.model_validate(objective),
        training=PretrainingSettings.model_validate(training),
    )


def encoder_of(workload: Workload, *, readout: Literal["mean", "last", "tcl"] = "mean") -> UserEncoder:
    """A fresh encoder without dropout, in evaluation mode."""
    shape = EncoderSettings.model_validate(
        {
            "kind": "nextitnet",
            "hidden_size": workload.channels,
            "dilations": workload.dilations,
            "kernel_size": KERNEL,
            "dropout": 0.0,
            "max_length": workload.length,
            "readout": readout,
        }
    )
    settings = PretrainSettings.model_validate({"encoder": shape})
    return build_encoder(settings, vocab_size=workload.vocabulary, fingerprint="").eval()


class PeterrecStep:
    """One training step a call, of the steps of epoch 1 in turn."""

    def __init__(
        self,
        workload: Workload,
        conditions: Conditions,
        *,
        train: Sequences,
        softmax: Softmax = "exact",
        dropout: float = 0.0,
        tcl_rate: float = 0.0,
        compiled: bool = False,
    ) -> None:
        settings = settings_of(
            workload, conditions, softmax=softmax, dropout=dropout, tcl_rate=tcl_rate, compiled=compiled
        )
        self.encoder = build_encoder(settings, vocab_size=workload.vocabulary, fingerprint="")
        self.program = PretrainingProgram(
            self.encoder, train=train, validation=train, objective=settings.objective, settings=settings.training
        )
        processes, progress = join(), Progress("silent")
        self._interrupts = Interrupts(notify=progress.note)
        self._run = TrainingRun(
            self.program,
            settings.training,
            open_accelerator(settings.training, processes=processes),
            processes=processes,
            checkpoints=None,
            progress=progress,
        )
        self._run.open()
        self._run.model.train()
        self.steps = self.program.steps(1)
        self._turns = itertools.cycle(self.steps)
        self.targets = self.program.num_targets(self.steps[0])
        classes = negatives_of(workload.vocabulary) if softmax == "sampled" else None
        self.flops = workload.positions * workload.convolution_flops() + self.targets * workload.softmax_flops(classes)

    def __call__(self) -> None:
        self.train_on(next(self._turns))

    def train_on(self, step: Step) -> None:
        """What the training loop does with one step."""
        self._run.step(step, self._interrupts)
