"""The folder of a fine-tuned task: which encoder it wants, its adapter and head, and loading them again."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from peterrec.adaptation import build, history_length
from peterrec.catalogue import TaskRecipe
from peterrec.data.vocabulary import Vocabulary
from peterrec.model import TaskModel
from peterrec.run_record import read_run
from peterrec.run_weights import FoundEncoder, ModelFacts, fill_weights, find_encoder, read_own_weights, save_weights
from peterrec.run_weights import weights_digest as weights_digest
from peterrec.settings import validate


class TaskFacts(ModelFacts):
    """What run.json says of a task model: enough to build it and to know which encoder it belongs to."""

    task: TaskRecipe
    classes: tuple[str, ...] = Field(min_length=2)
    prior: tuple[float, ...]

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
    save_weights(model, folder=folder, facts=facts, base_model=base_model)


def load_task(folder: Path, *, encoder: Path | FoundEncoder | None = None, continued: bool = False) -> LoadedTask:
    """Loads what `peterrec finetune` wrote, on `encoder` or on the encoder that the run names.

    An encoder in which that one is preserved will do as well, and with `continued` one that went on from it; the
    facts remain those of the encoder that the task was trained on.

    Raises SettingsError where the run or its encoder is not there, RefusedError where encoder or vocabulary are not
    those that the adapter was trained with, or a file is damaged.
    """
    folder = Path(folder)
    run = read_run(folder, stage="finetune")
    facts = validate(TaskFacts, run.get("model", {}), origin=str(folder / "run.json"))
    found = find_encoder(folder, facts, run=run, encoder=encoder, continued=continued)
    tensors = read_own_weights(folder, facts)
    model = build(found.encoder, adapter=facts.adapter, task=facts.task, num_classes=len(facts.classes))
    fill_weights(model, tensors, folder=folder, facts=facts, given=found.given)
    return LoadedTask(model=model.eval(), facts=facts, vocabulary=found.vocabulary, encoder_folder=found.folder)
