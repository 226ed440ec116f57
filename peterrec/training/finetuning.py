"""Fine-tuning a task model on labelled users, as a program for the training loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from peterrec.data.batches import cut, groups, plan
from peterrec.data.sequences import Sequences
from peterrec.data.upload import upload
from peterrec.errors import DataError
from peterrec.inference import POSITIONS, encode, last_events
from peterrec.metrics.classification import Classified
from peterrec.model import TaskModel
from peterrec.training.micro_batch import micro_batch
from peterrec.training.settings import TrainingSettings
from peterrec.training.standing_states import StandingStates, kept_positions
from peterrec.training.table_update import update_read_rows


class FinetuningSettings(TrainingSettings):
    """Training settings of fine-tuning."""

    users: int = Field(64, ge=1, description="Users of a batch.")
    cache_mb: int = Field(
        1024,
        ge=0,
        description="Memory (MiB) for states below the first block that trains, computed once; if they take more, or "
        "with 0, each step computes them again.",
    )
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

    What stands still is computed once: the user vectors when nothing in the encoder trains, else, within
    `settings.cache_mb`, the states of all users below the first block in which something does. Weights and outputs are
    those of a training without. `note` is told which it is.
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
        note: Callable[[str], object] | None = None,
    ):
        self.model = model
        self.metric = metric
        self._histories = histories
        self._train = train
        self._validation = validation
        self._max_length = max_length
        self._settings = settings
        self._weights: NDArray[np.float64] | None = None
        self._vectors: dict[str, Tensor] = {}
        self._states: dict[str, StandingStates] = {}
        if metric == "roc_auc" and len(np.unique(validation.labels)) < 2:
            raise DataError(
                f"All {len(validation)} validation users are of one class, so {metric} says nothing of when to stop; "
                "label more users, or split with stratified = true."
            )
        self.standing = model.standing_blocks
        self.states_bytes = self._bytes_of_states()
        # states below the lowest block are item vectors, which looking up again is as quick as keeping
        self.keeps_vectors = self.standing == len(model.base_encoder.blocks)
        self.keeps_states = 0 < self.states_bytes <= settings.cache_mb * 2**20
        of_rows = update_read_rows(model.base_encoder, settings)
        if note is not None:
            note(self.plan())
            if of_rows is not None:
                note(of_rows)

    def plan(self) -> str:
        """In words: what is computed once, and what in each step."""
        blocks, size = len(self.model.base_encoder.blocks), f"{self.states_bytes / 2**20:,.1f} MiB"
        below = f"{self.standing} of {blocks} blocks stand still"
        if self.keeps_vectors:
            return "Nothing in the encoder trains: user vectors are computed once."
        if self.keeps_states:
            return f"{below}: the states above them are computed once ({size})."
        if self.standing:
            return (
                f"{below}, but the states above them take {size}, more than cache_mb = {self._settings.cache_mb}: each "
                "step computes them again, without gradients."
            )
        return "The encoder trains from its lowest block on: each step computes all of it."

    def steps(self, epoch: int) -> Sequence[NDArray[np.integer]]:
        """The batches of an epoch, as places in the training users."""
        lengths = np.minimum(self._histories.lengths[self._train.rows], self._max_length)
        return groups(lengths, users=self._settings.users, seed=self._settings.seed, epoch=epoch)

    def num_targets(self, step: NDArray[np.integer]) -> int:
        """The users of a step."""
        return len(step)

    def weight(self, step: NDArray[np.integer]) -> float:
        """The users, each weighed by its class where the task weighs classes."""
        weights = self.model.class_weights
        if weights is None:
            return len(step)
        if self._weights is None:
            self._weights = weights.double().cpu().numpy()[self._train.labels]
        return float(self._weights[step].sum())

    def pieces(self, step: NDArray[np.integer], *, part: int, parts: int) -> Sequence[NDArray[np.integer]]:
        """What a process computes of a step: every `parts`-th user, since similar lengths stand together."""
        own = step[part::parts]
        if self.keeps_vectors:
            return [own] if len(own) else []
        limit = micro_batch(self.model, self._settings, encoder=self.model.base_encoder)
        lengths = np.minimum(self._histories.lengths[self._train.rows[own]], self._max_length)
        return [own[few] for few in cut(lengths, positions=limit)]

    def loss(self, piece: NDArray[np.integer], device: torch.device) -> tuple[Tensor, float]:
        """Mean cross-entropy of a piece and what its users weigh."""
        labels = upload(torch.from_numpy(self._train.labels[piece]), device)
        if self.keeps_vectors:
            places = upload(torch.from_numpy(piece), device)
            chosen = self._vectors_of("train", self._train, device).index_select(0, places)
            output = self.model.classify(chosen, labels)
        elif self.keeps_states:
            states, valid = self._states_of("train", self._train, device).batch(piece)
            output = self.model(states=states, attention_mask=valid, first_block=self.standing, labels=labels)
        else:
            ids = last_events(
                self._histories,
                self._train.rows[piece],
                max_length=self.model.events_read(self._max_length),
                readout=self.model.readout,
            )
            output = self.model(upload(torch.from_numpy(ids), device), labels=labels)
        assert output.loss is not None
        return output.loss, self.weight(piece)

    def validate(self) -> dict[str, float]:
        """The watched metric, accuracy and log loss on the validation users."""
        device = next(self.model.parameters()).device
        part = self._validation
        if self.keeps_vectors:
            logits = self.model.classify(self._vectors_of("validation", part, device)).logits
            assert logits is not None
            probabilities = torch.softmax(logits.double(), dim=1).cpu().numpy()
        elif self.keeps_states:
            probabilities = self._predict_from(self._states_of("validation", part, device))
        else:
            probabilities = predict(
                self.model, self._histories, rows=part.rows, max_length=self._max_length, device=device
            )
        values = Classified(part.labels, probabilities).measure(np.ones((1, len(part))))
        watched = dict.fromkeys((self.metric, "accuracy", "log_loss"))
        return {name: float(values[name][0]) for name in watched if np.isfinite(values[name][0])}

    def _bytes_of_states(self) -> int:
        """What the states of training and validation users take; 0 where there are none to keep."""
        base = self.model.base_encoder
        if not 0 < self.standing < len(base.blocks):
            return 0
        positions = sum(
            int(
                kept_positions(
                    self.model,
                    self._histories,
                    rows=part.rows,
                    max_length=self._max_length,
                    blocks=self.standing,
                ).sum()
            )
            for part in (self._train, self._validation)
        )
        return positions * base.config.hidden_size * base.dtype.itemsize

    def _vectors_of(self, name: str, part: LabelledUsers, device: torch.device) -> Tensor:
        if name not in self._vectors:
            model = self.model
            was_training = model.training
            model.eval()
            try:
                self._vectors[name] = encode(
                    model.user_vectors,
                    self._histories,
                    rows=part.rows,
                    max_length=model.events_read(self._max_length),
                    readout=model.readout,
                    device=device,
                ).to(device)
            finally:
                model.train(was_training)
        return self._vectors[name]

    def _states_of(self, name: str, part: LabelledUsers, device: torch.device) -> StandingStates:
        if name not in self._states:
            self._states[name] = StandingStates(
                self.model,
                self._histories,
                rows=part.rows,
                max_length=self._max_length,
                blocks=self.standing,
                device=device,
            )
        return self._states[name]

    @torch.no_grad()
    def _predict_from(self, kept: StandingStates) -> NDArray[np.float64]:
        """Class probabilities `(N, C)` from the states of all users; the model is in evaluation mode."""
        device = next(self.model.parameters()).device
        found: NDArray[np.float64] | None = None
        for users in plan(kept.lengths, positions=POSITIONS.get(device.type, 2**18), shuffle=False):
            states, valid = kept.batch(users)
            logits = self.model(states=states, attention_mask=valid, first_block=kept.blocks).logits
            probabilities = torch.softmax(logits.double(), dim=1).cpu().numpy()
            if found is None:
                found = np.empty((len(kept.lengths), probabilities.shape[1]))
            found[users] = probabilities
        assert found is not None
        return found


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
            max_length=model.events_read(max_length),
            readout=model.readout,
            device=device,
        )
    finally:
        model.train(was_training)
    return found.numpy()
