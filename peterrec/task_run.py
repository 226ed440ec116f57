"""The folder of a fine-tuned task: which encoder it wants, its adapter and head, and loading them again."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from peterrec.catalogue import AdapterRecipe, TaskRecipe
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders.loading import encoder_revision, open_encoder
from peterrec.errors import RefusedError, SettingsError
from peterrec.model import TaskModel
from peterrec.run_folder import read_run
from peterrec.settings import Settings, validate
from peterrec.transfer import build

ADAPTER = "adapter_model.safetensors"
WHOLE = "model.safetensors"


class TaskFacts(Settings):
    """What run.json says of a task model: enough to build it and to know which encoder it belongs to."""

    task: TaskRecipe
    adapter: AdapterRecipe
    classes: tuple[str, ...] = Field(min_length=2)
    prior: tuple[float, ...]
    encoder_revision: str
    vocabulary_fingerprint: str


@dataclass(frozen=True)
class LoadedTask:
    """A task model in evaluation mode with the vocabulary and the facts that belong to it."""

    model: TaskModel
    facts: TaskFacts
    vocabulary: Vocabulary
    encoder_folder: Path


def save_task(model: TaskModel, *, folder: Path, facts: TaskFacts) -> None:
    """Writes the weights that a task has of its own: adapter and head (peft's two files), head alone, or everything."""
    if facts.adapter.tuner == "patch":
        from peft import PeftModel

        assert isinstance(model.encoder, PeftModel)
        model.encoder.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # the run writes a card with figures
    name = WHOLE if facts.adapter.tuner == "full" else ADAPTER
    save_file(_own(model, tuner=facts.adapter.tuner), folder / name, metadata={"format": "pt"})


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
    if vocabulary.fingerprint != facts.vocabulary_fingerprint:
        raise RefusedError(
            f"{folder} was trained on the item vocabulary {facts.vocabulary_fingerprint[:16]}, but {found} has "
            f"{vocabulary.fingerprint[:16]}. Give the encoder that it was trained with."
        )
    revision = encoder_revision(found)
    if revision != facts.encoder_revision:
        raise RefusedError(
            f"{folder} is an adapter for the encoder weights {facts.encoder_revision}, but {found} holds {revision}. "
            "Give the encoder that it was trained with."
        )
    model = build(loaded, adapter=facts.adapter, task=facts.task, num_classes=len(facts.classes))
    tuner = facts.adapter.tuner
    path = folder / (WHOLE if tuner == "full" else ADAPTER)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RefusedError(f"{path} cannot be read ({error}); the adapter is damaged or incomplete.") from None
    own = _own(model, tuner=tuner)
    _check(path, tensors, own)
    if tuner == "patch":
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model.encoder, tensors)  # type: ignore[arg-type]
    state = model.state_dict()
    with torch.no_grad():
        for name in own.keys() & state.keys():
            state[name].copy_(tensors[name])
    return LoadedTask(model=model.eval(), facts=facts, vocabulary=vocabulary, encoder_folder=found)


def _own(model: TaskModel, *, tuner: str) -> dict[str, Tensor]:
    """The tensors that belong to the task and not to the encoder, under the names of its file."""
    if tuner == "patch":
        from peft import get_peft_model_state_dict

        kept = get_peft_model_state_dict(model.encoder, save_embedding_layers=False)  # type: ignore[arg-type]
        kept |= {f"head.{name}": tensor for name, tensor in model.head.state_dict().items()}
    else:
        state = model.state_dict()
        kept = state if tuner == "full" else {name: t for name, t in state.items() if name.startswith("head.")}
    return {name: tensor.detach().contiguous() for name, tensor in kept.items()}


def _check(path: Path, tensors: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    odd = sorted(set(tensors) ^ set(own))
    if odd:
        raise RefusedError(f"{path} does not hold the weights that its run.json describes: {odd[0]}, ….")
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape:
            raise RefusedError(f"{path}: {name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}.")
        if not tensors[name].isfinite().all():
            raise RefusedError(f"{path}: {name} holds numbers that are not finite; the adapter is damaged.")
