"""The weights in the folder of a fine-tuned run: saving them, finding their encoder, loading them with every check."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field
from torch import Tensor

from peterrec.adapter_file import HEAD, READOUT, adapter_weights, remember, save_adapter
from peterrec.adapter_weights import WEIGHTS, Pairing, check_pairing, fill, goes_on, read_weights, write_weights
from peterrec.atomic import atomic_file
from peterrec.catalogue import AdapterRecipe
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.loading import open_encoder
from peterrec.errors import RefusedError, SettingsError
from peterrec.model import TaskModel
from peterrec.origin import read_origin
from peterrec.settings import Settings

if TYPE_CHECKING:
    from peft import PeftModel

WHOLE = "model.safetensors"


class ModelFacts(Settings):
    """What run.json says of any fine-tuned model: how the encoder was adapted, and which one it belongs to."""

    adapter: AdapterRecipe
    encoder_revision: str
    vocabulary_fingerprint: str
    weights: str = Field(default="", description="SHA-256 of the file of weights")

    @property
    def pairing(self) -> Pairing:
        """Which encoder the model was trained on."""
        return Pairing(self.encoder_revision, self.vocabulary_fingerprint)


class FoundEncoder(NamedTuple):
    """The encoder that a run is loaded on, its vocabulary and folder, and which encoder it is."""

    encoder: UserEncoder
    vocabulary: Vocabulary
    folder: Path
    given: Pairing


def kind_of(run: dict[str, Any]) -> str:
    """What kind of task a run of `peterrec finetune` is: "classification" or "ranking"; `run` is its run.json."""
    model = run.get("model")
    task = model.get("task") if isinstance(model, dict) else None
    return str(task.get("kind")) if isinstance(task, dict) else "classification"


def save_weights(model: TaskModel, *, folder: Path, facts: ModelFacts, base_model: str = "") -> None:
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


def weights_digest(folder: Path, facts: ModelFacts) -> str:
    """SHA-256 of the file of weights in a task's folder."""
    with (folder / _file(facts)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_encoder(
    folder: Path, facts: ModelFacts, *, run: dict[str, Any], encoder: Path | FoundEncoder | None, continued: bool
) -> FoundEncoder:
    """Loads the encoder of the run in `folder`: the one in `encoder`, or the one that the run names.

    One that was loaded before is taken as it is, once it is checked; a task of the tuner full would be written into it.
    Raises SettingsError where it is not there, RefusedError where it is not one that the run may be loaded on.
    """
    if isinstance(encoder, FoundEncoder):
        loaded, vocabulary, found, given = encoder
    else:
        found = encoder if encoder is not None else _place(folder, facts, run=run)
        if not (found / "config.json").is_file():
            raise SettingsError(
                f"{folder}: its encoder is not at {found}; name it with --encoder FOLDER "
                f"(weights {facts.encoder_revision}, vocabulary {facts.vocabulary_fingerprint[:16]})."
            )
        loaded, vocabulary = open_encoder(found)
        given = Pairing.of(found)
    path = folder / _file(facts)
    check_pairing(path, facts.pairing, given, encoder=str(found), continued=continued)
    if goes_on(given, facts.pairing) and facts.adapter.tuner == "full":
        raise RefusedError(
            f"{path} is an encoder of its own, fine-tuned as a whole; nothing of {found} would be in it. Fine-tune "
            "again on that one, or give the encoder that the task was trained on."
        )
    return FoundEncoder(loaded, vocabulary, found, given)


def _place(folder: Path, facts: ModelFacts, *, run: dict[str, Any]) -> Path:
    """Where the encoder of a run is: of a fetched one, that which came with it."""
    origin = read_origin(folder)
    recorded = origin.encoder if origin is not None else run.get("inputs", {}).get("encoder", "")
    if not recorded:
        raise SettingsError(
            f"{folder} does not say where its encoder is; name it with --encoder FOLDER (weights "
            f"{facts.encoder_revision}, vocabulary {facts.vocabulary_fingerprint[:16]})."
        )
    return (folder / recorded).resolve()


def read_own_weights(folder: Path, facts: ModelFacts) -> dict[str, Tensor]:
    """The tensors in a task's folder. Raises RefusedError where the file is damaged or of another run."""
    path = folder / _file(facts)
    tensors, wanted = read_weights(path)
    if wanted is not None and wanted != facts.pairing:
        raise RefusedError(
            f"{path} was trained on {wanted}, but run.json beside it names {facts.pairing}: the file is of another "
            "run. Put the right one back, or fine-tune again."
        )
    return tensors


def fill_weights(
    model: TaskModel, tensors: dict[str, Tensor], *, folder: Path, facts: ModelFacts, given: Pairing
) -> None:
    """Puts the tensors of a task's folder into a model that was built on the encoder `given`.

    Raises RefusedError where they do not fit, or are not those that the run wrote.
    """
    path = folder / _file(facts)
    fill(_own(model, facts), tensors, path=path, more_items=goes_on(given, facts.pairing))
    if facts.weights and facts.weights != weights_digest(folder, facts):
        raise RefusedError(
            f"{path} is not the file that this run wrote: another training has replaced it, or it is damaged. "
            "Fine-tune again, or read it with load_adapter if you know where it is from."
        )
    wrapped = _wrapped(model)
    if wrapped is not None:
        remember(wrapped, given)


def _wrapped(model: TaskModel) -> "PeftModel | None":
    return None if isinstance(model.encoder, UserEncoder) else model.encoder


def _file(facts: ModelFacts) -> str:
    # a model without an encoder has all that it needs in its own file
    return WHOLE if facts.adapter.tuner == "full" or not facts.encoder_revision else WEIGHTS


def _own(model: TaskModel, facts: ModelFacts) -> dict[str, Tensor]:
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
