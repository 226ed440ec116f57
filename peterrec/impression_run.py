"""The folder of a model of impressions: its weights, how its fields are coded, which columns it reads; loading it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from torch import Tensor

from peterrec.adapter_weights import fill, read_weights, write_weights
from peterrec.atomic import atomic_file
from peterrec.catalogue import ImpressionTask
from peterrec.data.impressions.coding import FieldCoding
from peterrec.data.impressions.schema import Schema
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import RefusedError, SettingsError
from peterrec.impression_design import Design, design
from peterrec.impression_transfer import ImpressionFit, build
from peterrec.run_record import read_run
from peterrec.run_weights import (
    WHOLE,
    FoundEncoder,
    ModelFacts,
    fill_weights,
    find_encoder,
    read_own_weights,
    save_weights,
    weights_digest,
)
from peterrec.settings import validate

SCHEMA = "schema.json"


class ImpressionFacts(ModelFacts):
    """What run.json says of a model of impressions; `encoder_revision` is empty where it has no encoder.

    `labels` are those that it was trained with, and whether each is 0 or 1; `coding` is the fingerprint of its fields.
    """

    task: ImpressionTask
    labels: dict[str, bool] = Field(min_length=1)
    coding: str
    columns: str = Field(default="", description="SHA-256 of the file that says which columns are read")

    @property
    def with_encoder(self) -> bool:
        """Whether user and item vectors of an encoder are among its inputs."""
        return bool(self.encoder_revision)


@dataclass(frozen=True)
class LoadedImpressions:
    """A model in evaluation mode, the `schema` of the rows that it reads, and, with an encoder, its vocabulary."""

    fitted: ImpressionFit
    facts: ImpressionFacts
    schema: Schema
    vocabulary: Vocabulary | None
    encoder_folder: Path | None


def save_impressions(
    fitted: ImpressionFit, *, folder: Path, facts: ImpressionFacts, schema: Schema, base_model: str = ""
) -> ImpressionFacts:
    """Writes the weights that the model has of its own, how its fields are coded, and which columns it reads.

    `base_model` is as for `save_task`. Returns `facts` with the digests of the files, as `load_impressions` wants them.
    """
    assert facts.coding == fitted.coding.fingerprint
    if fitted.model is not None:
        save_weights(fitted.model, folder=folder, facts=facts, base_model=base_model)
    else:
        with atomic_file(folder / WHOLE) as path:
            write_weights(_own(fitted), path, pairing=facts.pairing)
    fitted.coding.save(folder)
    with atomic_file(folder / SCHEMA) as path:
        path.write_text(schema.to_json() + "\n", encoding="utf-8")
    digests = {"weights": weights_digest(folder, facts), "columns": _digest(folder / SCHEMA)}
    return facts.model_copy(update=digests)


def load_impressions(
    folder: Path, *, encoder: Path | FoundEncoder | None = None, continued: bool = False
) -> LoadedImpressions:
    """Loads what `peterrec finetune` wrote of a task on impressions; `encoder` and `continued` as for `load_task`.

    Raises SettingsError where the run or its encoder is not there, or an encoder is given to a model without one;
    RefusedError where a file is damaged, of another run, or the encoder is not the one of the training.
    """
    folder = Path(folder)
    run = read_run(folder, stage="finetune")
    facts = validate(ImpressionFacts, run.get("model", {}), origin=str(folder / "run.json"))
    schema = read_schema(folder)
    if _digest(folder / SCHEMA) != facts.columns:
        raise RefusedError(
            f"{folder / SCHEMA} is not the file that this run wrote, so rows would be read otherwise than those of the "
            "training. Put the right one back, or fine-tune again."
        )
    coding = FieldCoding.load(folder)
    if coding.fingerprint != facts.coding:
        raise RefusedError(
            f"{folder}: its fields are not those that the model was trained on, so it would read other values. Put the "
            "right files back, or fine-tune again."
        )
    plan = plan_of(facts, schema)
    if not facts.with_encoder:
        if encoder is not None:
            raise SettingsError(f"--encoder: {folder} was trained without an encoder; leave the option out.")
        fitted = build(plan, coding, encoder=None, adapter=facts.adapter)
        path = folder / WHOLE
        tensors, _ = read_weights(path)
        fill(_own(fitted), tensors, path=path)
        if facts.weights != weights_digest(folder, facts):
            raise RefusedError(
                f"{path} is not the file that this run wrote: put the right one back, or fine-tune again."
            )
        fitted.network.eval()
        return LoadedImpressions(fitted, facts, schema, None, None)
    found = find_encoder(folder, facts, run=run, encoder=encoder, continued=continued)
    fitted = build(plan, coding, encoder=found.encoder, adapter=facts.adapter)
    assert fitted.model is not None
    fill_weights(fitted.model, read_own_weights(folder, facts), folder=folder, facts=facts, given=found.given)
    fitted.model.eval()
    return LoadedImpressions(fitted, facts, schema, found.vocabulary, found.folder)


def plan_of(facts: ImpressionFacts, schema: Schema) -> Design:
    """What the task came to on the data that it was trained on."""
    return design(
        facts.task,
        fields=[field.name for field in schema.fields],
        labels=facts.labels,
        domains=len(schema.domains),
    )


def read_schema(folder: Path) -> Schema:
    """The schema beside a model. Raises RefusedError where it is missing or damaged."""
    path = folder / SCHEMA
    try:
        text = path.read_text(encoding="utf-8")
        return Schema.from_json(text, origin=str(path))
    except OSError as problem:
        raise RefusedError(f"{path}: cannot be read ({problem.strerror}); put it back, or fine-tune again.") from None
    except (UnicodeDecodeError, SettingsError) as problem:
        raise RefusedError(f"{path} is damaged ({problem}); put the right one back, or fine-tune again.") from None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _own(fitted: ImpressionFit) -> dict[str, Tensor]:
    """The tensors of a network without an encoder."""
    return {name: tensor.detach() for name, tensor in fitted.network.state_dict().items()}
