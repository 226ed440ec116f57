"""Fine-tuning a task model on labelled users, as a program for the training loop."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from peterrec.data.batches import groups
from peterrec.data.sequences import Sequences
from peterrec.errors import DataError
from peterrec.inference import encode, last_events
from peterrec.metrics.classification import Classified
from peterrec.model import TaskModel
from peterrec.training.settings import TrainingSettings


class FinetuningSettings(TrainingSettings):
    """Training settings of fine-tuning."""

    users: int = Field(64, ge=1, description="Users of a batch.")
    seed: int = Field(0, ge=0, lt=2**63, description="Not to be set here: --seeds gives each run its own.")


@dataclass(frozen=True)
class LabelledUsers:
    """Users of one part: rows of the histories `(N,)` and class numbers `(N,)`."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


class ClassificationProgram:
    """Cross-entropy on labelled users, watched by one metric on the validation users.

    When no weight of the encoder trains, the user vectors are computed once and the head is trained on them.
    """

    def __init__(
        self,
        model: TaskModel,
        *,
        histories: Sequences,
        train: LabelledUsers,
        validation: LabelledUsers,
        metric: str,
        max_length: int,
        settings: FinetuningSettings,
    ):
        self.model = model
        self.metric = metric
        self._histories = histories
        self._train = train
        self._validation = validation
        self._max_length = max_length
        self._settings = settings
        self._features: dict[str, Tensor] = {}
        if metric == "roc_auc" and len(np.unique(validation.labels)) < 2:
            raise DataError(
                f"All {len(validation)} validation users are of one class, so {metric} says nothing of when to stop; "
                "label more users, or split with stratified = true."
            )
        self.encoder_trains = any(p.requires_grad for p in model.encoder.parameters())

    def steps(self, epoch: int) -> Sequence[NDArray[np.integer]]:
        """The batches of an epoch, as places in the training users."""
        lengths = np.minimum(self._histories.lengths[self._train.rows], self._max_length)
        return groups(lengths, users=self._settings.users, seed=self._settings.seed, epoch=epoch)

    def loss(self, step: NDArray[np.integer], device: torch.device) -> tuple[Tensor, int]:
        """Mean cross-entropy of a step and its number of users."""
        labels = torch.from_numpy(self._train.labels[step]).to(device, non_blocking=True)
        if not self.encoder_trains:
            vectors = self._vectors("train", self._train, device)
            chosen = vectors.index_select(0, torch.from_numpy(step).to(device))
            output = self.model.classify(chosen, labels)
        else:
            readout = self.model.readout
            rows = self._train.rows[step]
            ids = last_events(self._histories, rows, max_length=self._max_length, readout=readout)
            output = self.model(torch.from_numpy(ids).to(device, non_blocking=True), labels=labels)
        assert output.loss is not None
        return output.loss, len(step)

    def validate(self) -> dict[str, float]:
        """The watched metric, accuracy and log loss on the validation users."""
        device = next(self.model.parameters()).device
        part = self._validation
        if self.encoder_trains:
            probabilities = predict(
                self.model, self._histories, rows=part.rows, max_length=self._max_length, device=device
            )
        else:
            logits = self.model.classify(self._vectors("validation", part, device)).logits
            assert logits is not None
            probabilities = torch.softmax(logits.double(), dim=1).cpu().numpy()
        values = Classified(part.labels, probabilities).measure(np.ones((1, len(part))))
        watched = dict.fromkeys((self.metric, "accuracy", "log_loss"))
        return {name: float(values[name][0]) for name in watched if np.isfinite(values[name][0])}

    def _vectors(self, name: str, part: LabelledUsers, device: torch.device) -> Tensor:
        if name not in self._features:
            model = self.model
            self._features[name] = encode(
                model.user_vectors,
                self._histories,
                rows=part.rows,
                max_length=self._max_length,
                readout=model.readout,
                device=device,
            ).to(device)
        return self._features[name]


def predict(
    model: TaskModel,
    histories: Sequences,
    *,
    rows: NDArray[np.int64] | None = None,
    max_length: int,
    device: torch.device,
) -> NDArray[np.float64]:
    """Class probabilities `(N, C)` of the histories `rows`, from all adapters that are active."""
    was_training = model.training
    model.eval()

    def probabilities(input_ids: Tensor) -> Tensor:
        return torch.softmax(model(input_ids).logits.double(), dim=1)

    try:
        found = encode(
            probabilities,
            histories,
            rows=rows,
            max_length=max_length,
            readout=model.readout,
            device=device,
        )
    finally:
        model.train(was_training)
    return found.numpy()
