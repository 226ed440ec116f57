"""The folder of a fine-tuned task: which encoder it wants, its adapter and head, and loading them again."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from torch import Tensor

from peterrec.adaptation import build, history_length
from peterrec.adapter_file import HEAD, READOUT, adapter_weights, remember, save_adapter
from peterrec.adapter_weights import WEIGHTS, Pairing, check_pairing, fill, read_weights, write_weights
from peterrec.atomic import atomic_file
from peterrec.catalogue import AdapterRecipe, TaskRecipe
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.loading import encoder_revision, open_encoder
from peterrec.errors import RefusedError, SettingsError
from peterrec.model import TaskModel
from peterrec.run_folder import read_run
from peterrec.settings import Settings, validate

if TYPE_CHECKING:
    from peft import PeftModel

WHOLE = "model.safetensors"


class TaskFacts(Settings):
    """What run.json says of a task model: enough to build it and to know which encoder it belongs to."""

    task: TaskRecipe
    adapter: AdapterRecipe
    classes: tuple[str, ...] = Field(min_length=2)
    prior: tuple[float, ...]
    encoder_revision: str
    vocabulary_fingerprint: str
    weights: str = Field(default="", description="SHA-256 of the file of weights")

    @property
    def pairing(self) -> Pairing:
        """Which encoder the task was trained on."""
        return Pairing(self.encoder_revision, self.vocabulary_fingerprint)

    @property
    def max_length(self) -> int:
        """How many of the last events of a history the task reads at most."""
        return history_length(self.adapter, self.task)


@dataclass(frozen=True)
class LoadedTask:
    """A task model in evaluation mode with the vocabulary and the facts that belong to it."""

    model: TaskModel
    facts: TaskFacts
    vocabulary: Vocabulary
    encoder_folder: Path


def save_task(model: TaskModel, *, folder: Path, facts: TaskFacts, base_model: str = "") -> None:
    """Writes the weights that a task has of its own: adapter, readout and head (peft's two files), or everything.

    `base_model`: where peft's Auto classes will look for the encoder, as `save_adapter` says.
    """
    wrapped = _wrapped(model)
    if wrapped is not None:
        save_adapter(
            wrapped,
            folder,
            encoder_revision=facts.encoder_revision,
            vocabulary_fingerprint=facts.vocabulary_fingerprint,
            head=model.head,
            readout=model.reader,
            base_model=base_model,
        )
        return
    with atomic_file(folder / _file(facts)) as path:
        write_weights(_own(model, facts), path, pairing=facts.pairing)


def weights_digest(folder: Path, facts: TaskFacts) -> str:
    """SHA-256 of the file of weights in a task's folder."""
    with (folder / _file(facts)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_task(folder: Path, *, encoder: Path | None = None) -> LoadedTask:
    """Loads what `peterrec finetune` wrote, on `encoder` or on the encoder that the run names.

    Raises SettingsError where the run or its encoder is not there, RefusedError where encoder or vocabulary are not
    those that the adapter was trained with, or a file is damaged.
    """
    folder = Path(folder)
    run = read_run(folder, stage="finetune")
    facts = validate(TaskFacts, run.get("model", {}), origin=str(folder / "run.json"))
    recorded = run.get("inputs", {}).get("encoder", "")
    found = encoder if encoder is not None else (folder / recorded).resolve()
    if not (found / "config.json").is_file():
        raise SettingsError(
            f"{folder}: its encoder is not at {found}; name it with --encoder FOLDER "
            f"(weights {facts.encoder_revision}, vocabulary {facts.vocabulary_fingerprint[:16]})."
        )
    loaded, vocabulary = open_encoder(found)
    given = Pairing(encoder_revision(found), vocabulary.fingerprint)
    path = folder / _file(facts)
    check_pairing(path, facts.pairing, given, encoder=str(found))
    tensors, wanted = read_weights(path)
    if wanted is not None and wanted != facts.pairing:
        raise RefusedError(
            f"{path} was trained on {wanted}, but run.json beside it names {facts.pairing}: the file is of another "
            "run. Put the right one back, or fine-tune again."
        )
    model = build(loaded, adapter=facts.adapter, task=facts.task, num_classes=len(facts.classes))
    fill(_own(model, facts), tensors, path=path)
    if facts.weights and facts.weights != weights_digest(folder, facts):
        raise RefusedError(
            f"{path} is not the file that this run wrote: another training has replaced it, or it is damaged. "
            "Fine-tune again, or read it with load_adapter if you know where it is from."
        )
    wrapped = _wrapped(model)
    if wrapped is not None:
        remember(wrapped, given)
    return LoadedTask(model=model.eval(), facts=facts, vocabulary=vocabulary, encoder_folder=found)


def _wrapped(model: TaskModel) -> "PeftModel | None":
    return None if isinstance(model.encoder, UserEncoder) else model.encoder


def _file(facts: TaskFacts) -> str:
    return WHOLE if facts.adapter.tuner == "full" else WEIGHTS


def _own(model: TaskModel, facts: TaskFacts) -> dict[str, Tensor]:
    """The tensors that belong to the task and not to the encoder, under the names of its file and in its memory."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if facts.adapter.tuner == "full":
        return state
    wrapped = _wrapped(model)
    adapter = {} if wrapped is None else adapter_weights(wrapped)
    readout = {f"{READOUT}{name}": tensor for name, tensor in model.reader.named_parameters()}
    return (
        adapter
        | {name: tensor.detach() for name, tensor in readout.items()}
        | {name: tensor for name, tensor in state.items() if name.startswith(HEAD)}
    )
