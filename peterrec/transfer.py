"""One contestant on one split: build it, train it, predict the test users.

A contestant is a way to get from an encoder to a task: which weights it starts from (pretrained or random) and which it
may change (an adapter recipe).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from peterrec.adaptation import build, history_length
from peterrec.catalogue import AdapterRecipe, TaskRecipe
from peterrec.data.attribute import Attribute, Split
from peterrec.data.sequences import Sequences
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.loading import load_encoder
from peterrec.model import TaskModel
from peterrec.training.finetuning import ClassificationProgram, FinetuningSettings, LabelledUsers, predict
from peterrec.training.loop import TrainingResult, train
from peterrec.training.memory import PeakMemory
from peterrec.training.processes import join
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker


@dataclass(frozen=True)
class Contestant:
    """`pretrained`: start from the encoder's weights, else from random ones of the same shape.

    `source` is the adapter as it was named: by name, or by its file.
    """

    name: str
    adapter: AdapterRecipe
    pretrained: bool = True
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a training went and what it cost; `validation` is the watched figure at `best_epoch`, None if never finite.

    `seconds` are those of training. Where the system does not tell it, `peak_memory_bytes` (while training, in this
    process) is None; so is `adapter_bytes`, of the file with the weights, where it was not measured.
    """

    history: list[dict[str, Any]]
    best_epoch: int | None
    validation: float | None
    trained_parameters: int
    parameters: int
    seconds: float
    peak_memory_bytes: int | None
    adapter_bytes: int | None = None

    @classmethod
    def of(cls, model: nn.Module, result: TrainingResult, *, peak_memory_bytes: int | None) -> "Trained":
        """Of a model that `train` has trained."""
        return Trained(
            history=result.history,
            best_epoch=result.best_epoch,
            validation=result.best_metric,
            trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            parameters=sum(p.numel() for p in model.parameters()),
            seconds=result.seconds,
            peak_memory_bytes=peak_memory_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class Tested(Trained):
    """A trained contestant with its model, if that is kept; each kind adds what came of the test."""

    model: nn.Module | None


@dataclass(frozen=True, kw_only=True)
class Fitted(Tested):
    """A trained contestant: its model, if that was asked for, and test probabilities `(N, C)`."""

    model: TaskModel | None
    probabilities: NDArray[np.float64]


def starting_encoder(contestant: Contestant, folder: Path, *, seed: int) -> UserEncoder:
    """The encoder in `folder`, or for a control that is not pretrained a random one of its shape."""
    encoder = load_encoder(folder)
    return encoder if contestant.pretrained else random_encoder(encoder, seed=seed)


def random_encoder(encoder: UserEncoder, *, seed: int) -> UserEncoder:
    """An encoder of the same shape with fresh weights: what the pretrained one is compared with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1_000_003)
        return type(encoder)(encoder.config)


def fit(
    contestant: Contestant,
    *,
    encoder_folder: Path,
    task: TaskRecipe,
    settings: FinetuningSettings,
    histories: Sequences,
    attribute: Attribute,
    split: Split,
    checkpoints: Path | None,
    metrics_file: Path | None,
    tracker: Tracker,
    progress: Progress,
    keep_model: bool,
) -> Fitted:
    """Trains a contestant on the split's training users and predicts its test users.

    `settings.seed` draws the head, the random encoder and the batches. Early stopping looks at the validation users.
    """
    memory = PeakMemory()
    encoder = starting_encoder(contestant, encoder_folder, seed=settings.seed)
    labelled = LabelledUsers(attribute.rows[split.train], attribute.labels[split.train])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = build(
            encoder,
            adapter=contestant.adapter,
            task=task,
            num_classes=len(attribute.classes),
            class_weights=_class_weights(labelled, len(attribute.classes)) if task.class_weights else None,
        )
    max_length = history_length(contestant.adapter, task)
    program = ClassificationProgram(
        model,
        histories=histories,
        train=labelled,
        validation=LabelledUsers(attribute.rows[split.validation], attribute.labels[split.validation]),
        metric=task.metric,
        max_length=max_length,
        settings=settings,
        note=progress.note,
    )
    result = train(
        program,
        settings,
        checkpoints=checkpoints,
        metrics_file=metrics_file,
        tracker=tracker,
        progress=progress,
        start=program.fit_head if program.fits_head else None,
        start_alone=program.fits_all,
    )
    device = next(model.parameters()).device
    if program.fits_all and join().main:  # nothing is left to be validated: those users train as well
        result.history[0] |= program.fit_head(device, with_validation=True)
    peak = memory.read(device)
    probabilities = predict(model, histories, rows=attribute.rows[split.test], max_length=max_length, device=device)
    return Fitted(
        **vars(Trained.of(model, result, peak_memory_bytes=peak)),
        model=model.cpu() if keep_model else None,
        probabilities=probabilities,
    )


def _class_weights(labelled: LabelledUsers, num_classes: int) -> torch.Tensor:
    """Inverse frequencies with mean 1 over the users; classes without users weigh nothing."""
    counts = np.bincount(labelled.labels, minlength=num_classes)
    weights = np.where(counts > 0, len(labelled) / np.maximum(counts, 1) / np.count_nonzero(counts), 0.0)
    return torch.from_numpy(weights).float()
