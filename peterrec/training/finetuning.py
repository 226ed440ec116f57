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
from peterrec.heads.classification import ClassificationHead, HeadScale
from peterrec.heads.item_regression import fit_items
from peterrec.heads.newton import fit_head
from peterrec.inference import POSITIONS, encode
from peterrec.metrics.classification import Classified
from peterrec.model import TaskModel, TaskOutput
from peterrec.training.item_fit import check_convex, item_bags, item_scales, thin_matrices
from peterrec.training.micro_batch import micro_batch
from peterrec.training.settings import TrainingSettings
from peterrec.training.standing_states import StandingStates
from peterrec.training.standing_users import StandingUsers
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

    What stands still is computed once: the user vectors when nothing in the encoder trains, or, within
    `settings.cache_mb`, the states of all users that a readout which trains reads; else those below the first block in
    which something trains. Weights and outputs are those of a training without. `note` is told which it is.

    `max_length` may be `peterrec.data.reading.WHOLE`: all events of a history.
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
        self._penalties: tuple[float, float] | None = None
        self.fits_head = isinstance(model.head, ClassificationHead) and isinstance(model.head.norm, HeadScale)
        others = [*model.encoder.parameters(), *model.reader.parameters()]
        # a head that is all that trains needs no steps once it is fitted
        self.fits_all = self.fits_head and not any(parameter.requires_grad for parameter in others)
        if model.convex:
            check_convex(model)
            self.fits_all = True
        if metric == "roc_auc" and len(np.unique(validation.labels)) < 2 and not self.fits_all:
            raise DataError(
                f"All {len(validation)} validation users are of one class, so {metric} says nothing of when to stop; "
                "label more users, or split with stratified = true."
            )
        self.standing = StandingUsers(
            model,
            histories,
            parts={"train": train.rows, "validation": validation.rows},
            max_length=max_length,
            cache_mb=settings.cache_mb,
        )
        self.keeps_vectors, self.keeps_states = self.standing.keeps_vectors, self.standing.keeps_states
        of_rows = update_read_rows(model.base_encoder, settings)
        if note is not None:
            plan = "Item table and head are fitted together, as one regression." if model.convex else None
            note(plan or self.standing.plan())
            if of_rows is not None:
                note(of_rows)

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
            chosen = self.standing.pooled("train", device).index_select(0, places)
            output = self.model.classify(self.model.vectors_of_pooled(chosen), labels)
        elif self.keeps_states:
            output = self._from_states(self.standing.states("train", device), piece, labels)
        else:
            rows = self.model.reading(self._max_length).rows(self._histories, self._train.rows[piece])
            windows = {} if rows.places is None else {"places": upload(torch.from_numpy(rows.places), device)}
            output = self.model(upload(torch.from_numpy(rows.ids), device), labels=labels, **windows)
        assert output.loss is not None
        return output.loss, self.weight(piece)

    def fit_head(self, device: torch.device, *, with_validation: bool = False) -> dict[str, float]:
        """Sets the head to the logistic regression on the user vectors as they are; `head_C`, its penalty's inverse.

        On the training users, or with those of the validation, where nothing is left to be validated; the penalties of
        items stay those of the first call where there are many. The model is on `device`. There is no `head_C` where
        all labels are the same.
        """
        assert isinstance(self.model.head, ClassificationHead)
        parts = {"train": self._train, **({"validation": self._validation} if with_validation else {})}
        pooled = self.standing.pooled if self.keeps_vectors else self.standing.pooled_now
        weights = None if self.model.class_weights is None else self.model.class_weights.double().cpu().numpy()
        labels, seed = np.concatenate([part.labels for part in parts.values()]), self._settings.seed
        if self.model.convex:
            thin_matrices(self.model)[0].zero_()  # the vectors are those of the table as it was
        vectors = self.model.vectors_of_pooled(torch.cat([pooled(name, device) for name in parts])).detach()
        if self.model.convex:
            rows, size = np.concatenate([part.rows for part in parts.values()]), self.model.config.vocab_size
            bags = item_bags(
                self._histories, rows, kind=self.model.readout, max_length=self._max_length, vocab_size=size
            )
            scales = item_scales(self._histories, vocab_size=size)
            self._penalties = fit_items(
                self.model.head,
                thin_matrices(self.model),
                vectors,
                bags,
                labels,
                scales=scales,
                class_weights=weights,
                seed=seed,
                chosen=self._penalties,
            )
            return dict(zip(("head_C", "item_share"), self._penalties, strict=True))
        found = fit_head(self.model.head, vectors, labels, class_weights=weights, seed=seed)
        return {} if found is None else {"head_C": found}

    def validate(self) -> dict[str, float]:
        """The watched metric, accuracy and log loss on the validation users."""
        device = next(self.model.parameters()).device
        part = self._validation
        if self.keeps_vectors:
            vectors = self.model.vectors_of_pooled(self.standing.pooled("validation", device))
            logits = self.model.classify(vectors).logits
            assert logits is not None
            probabilities = torch.softmax(logits.double(), dim=1).cpu().numpy()
        elif self.keeps_states:
            probabilities = self._predict_from(self.standing.states("validation", device))
        else:
            probabilities = predict(
                self.model, self._histories, rows=part.rows, max_length=self._max_length, device=device
            )
        values = Classified(part.labels, probabilities).measure(np.ones((1, len(part))))
        watched = dict.fromkeys((self.metric, "accuracy", "log_loss"))
        found = {name: float(values[name][0]) for name in watched}
        return {name: value for name, value in found.items() if name == self.metric or np.isfinite(value)}

    def _from_states(
        self, kept: StandingStates, users: NDArray[np.integer], labels: Tensor | None = None
    ) -> TaskOutput:
        batch = kept.batch(users)
        more = {name: found for name in ("input_ids", "places") if (found := getattr(batch, name)) is not None}
        return self.model(
            states=batch.states, attention_mask=batch.valid, first_block=kept.blocks, labels=labels, **more
        )

    @torch.no_grad()
    def _predict_from(self, kept: StandingStates) -> NDArray[np.float64]:
        """Class probabilities `(N, C)` from the states of all users; the model is in evaluation mode."""
        device = next(self.model.parameters()).device
        found: NDArray[np.float64] | None = None
        for users in plan(kept.lengths, positions=POSITIONS.get(device.type, 2**18), shuffle=False):
            logits = self._from_states(kept, users).logits
            assert logits is not None
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

    def probabilities(input_ids: Tensor, *, places: Tensor | None = None, positions: int | None = None) -> Tensor:
        if places is None:
            output = model(input_ids)
        else:
            pooled = model.pooled_users(input_ids, places=places, positions=positions)
            output = model.classify(model.vectors_of_pooled(pooled))
        assert output.logits is not None
        return torch.softmax(output.logits.double(), dim=1)

    try:
        found = encode(probabilities, histories, rows=rows, reading=model.reading(max_length), device=device)
    finally:
        model.train(was_training)
    return found.numpy()
