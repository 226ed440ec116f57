"""`peterrec pretrain`: from a prepared log to a user encoder, a new one or one that goes on from another."""

import shlex
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from peterrec.data.prepared import PreparedLog, column_options, open_prepared
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.loading import encoder_class, encoder_revision, save_encoder
from peterrec.encoders.settings import EncoderSettings
from peterrec.errors import RefusedError, SettingsError
from peterrec.evaluation.next_item import evaluate_next_item
from peterrec.report.files import write_results
from peterrec.run_folder import output_folder
from peterrec.run_record import FORMAT_VERSION, relative_to_run
from peterrec.settings import Settings, dump, load_settings, to_toml
from peterrec.training.continuation import Continuation, settings_layer
from peterrec.training.loop import train
from peterrec.training.pretraining import ObjectiveSettings, PretrainingProgram, PretrainingSettings
from peterrec.training.processes import join
from peterrec.training.progress import Mode, Progress
from peterrec.training.settings import PLACING
from peterrec.training.tracked_run import tracked_run
from peterrec.training.tracking import Mode as TrackerMode
from peterrec.training.tracking import Tracker

NO_NEXT_ITEMS = (
    " The encoder learnt from views of users and no next items: its figures here are no judgement of it; its user "
    "vectors are for tasks."
)


class PretrainSettings(Settings):
    """Everything that pretraining may be told."""

    encoder: EncoderSettings = Field(EncoderSettings.model_validate({}), description="The user encoder.")
    objective: ObjectiveSettings = Field(ObjectiveSettings.model_validate({}), description="What it learns.")
    training: PretrainingSettings = Field(PretrainingSettings.model_validate({}), description="How it is trained.")


def run(
    data: Path,
    *,
    output: Path,
    settings: PretrainSettings | None = None,
    parent: Path | None = None,
    new_items_only: bool = False,
    overwrite: bool = False,
    wandb: TrackerMode = "off",
    progress: Mode = "auto",
) -> dict[str, Any]:
    """Trains an encoder on the `train` part of the prepared folder `data`; returns what metrics.json holds.

    Early stopping looks at the `validation` part, the final figures come from `test`. An interrupted run goes on when
    called again with the same settings and data. The output folder is an encoder that `AutoModel.from_pretrained`
    reads. Raises DataError, SettingsError, ResourceError, DivergedError, BusyError.

    With `parent`, the folder of an encoder, that one is trained further, on data whose vocabulary begins with its own
    (`prepare --vocabulary-of`); its settings hold where none are given, and the shape of an encoder never changes.
    With `new_items_only` its weights stand still, and only the rows of items that it did not know train. Raises
    RefusedError as well where data and encoder do not fit.

    Launched as several processes, all call this: the main one does all that is said here, the others help it train and
    return nothing, whatever they were given.
    """
    processes = join()
    if not processes.main:
        _, facts = next(processes.jobs())
        follow(facts)
        return {}
    if new_items_only and parent is None:
        raise SettingsError("--new-items-only is for an encoder to go on from; name it with --from.")
    before = None if parent is None else Continuation.open(parent, output=output, new_items_only=new_items_only)
    settings = _resolved(settings, before)
    prepared = open_prepared(data)
    resolved = {
        **dump(settings),
        "data": {
            "vocabulary": prepared.vocabulary.fingerprint,
            "split": {"name": prepared.split, **prepared.summary["split"]["parameters"]},
            "fingerprint": prepared.fingerprint,
        },
        **({} if before is None else {"from": before.resolved}),
    }
    placing = [f"training.{name}" for name in PLACING]
    with output_folder(
        Path(output), stage="pretrain", overwrite=overwrite, resume=resolved, may_differ=placing
    ) as folder:
        program = _program(prepared, settings, before)
        encoder, choices = program.encoder, program.plan(processes=processes.count)
        if before is not None:
            choices.append(before.told(prepared))
        shown = Progress(progress, title="pretraining")
        for line in choices:
            shown.note(line)
        with tracked_run(wandb, name=f"pretrain {folder.path.name}", config=resolved, folder=folder) as tracker:
            job = {"data": str(data.absolute()), "fingerprint": prepared.fingerprint, "settings": dump(settings)}
            if before is not None:
                job["from"] = before.job
            with processes.job("pretrain", job):
                result = train(
                    program,
                    settings.training,
                    checkpoints=folder.checkpoints,
                    metrics_file=folder.path / "metrics.jsonl",
                    tracker=tracker,
                    progress=shown,
                )
            trained = sum(p.numel() for p in program.model.parameters() if p.requires_grad)
            share = 1.0
            if before is not None:
                before.settle(encoder)
                trained = trained if not new_items_only else before.trained_parameters(encoder)
                share = min(trained / sum(p.numel() for p in program.model.parameters()), 1.0)
            facts = {"trained_parameters": trained, "trained_share": share, "seconds": result.seconds}
            device = next(encoder.parameters()).device
            figures = evaluate_next_item(prepared, encoder=encoder, device=device, model_facts=facts)
            if not settings.objective.position_level:
                figures["protocol"] += NO_NEXT_ITEMS
            metrics = {
                "format_version": FORMAT_VERSION,
                "stage": "pretrain",
                "seeds": [settings.training.seed],
                **figures,
                "curves": result.history,
                "training": {
                    "epochs": result.epochs,
                    "best_epoch": result.best_epoch,
                    "best_metric": result.best_metric,
                    "kept_epoch": result.epochs if settings.training.keeps_last else result.best_epoch,
                    "stopped": result.stopped,
                    "watched": program.metric,
                    "steps": result.steps,
                    "seconds": result.seconds,
                    "targets_per_second": result.targets_per_second,
                    "choices": choices,
                    "processes": processes.count,
                    "device": device.type,
                },
            }
            with folder.files() as temporary:
                save_encoder(
                    encoder,
                    config_path=temporary / "config.json",
                    weights_path=temporary / "model.safetensors",
                )
                prepared.vocabulary.save(temporary / "vocabulary.parquet")
                (temporary / "settings.toml").write_text(to_toml(dump(settings)), encoding="utf-8")
                revision = encoder_revision(temporary)
            write_results(
                folder,
                metrics,
                title=f"User encoder: {folder.path.name}",
                settings=resolved,
                usage=usage(folder.path, prepared),
                summary=prepared.summary,
            )
            tracker.artifact(
                f"encoder-{revision}",
                type="encoder",
                files=[folder.path / "config.json", folder.path / "model.safetensors"],
            )
            folder.finish(
                inputs={
                    "data": relative_to_run(data, folder.path),
                    "data_split": prepared.split,
                    "data_fingerprint": prepared.fingerprint,
                    **({} if before is None else {"from": relative_to_run(before.folder, folder.path)}),
                },
                vocabulary_fingerprint=prepared.vocabulary.fingerprint,
                encoder_revision=revision,
                wandb_run=tracker.run_id,
            )
    return metrics


def follow(job: dict[str, Any]) -> None:
    """Helps the main process with its training; `job` is what that one says of it.

    Raises RefusedError where the prepared folder, or the encoder to go on from, on this machine is another one.
    """
    data = Path(job["data"])
    prepared = open_prepared(data)
    if prepared.fingerprint != job["fingerprint"]:
        raise RefusedError(f"{data}: not the data of the main process; copy its prepared folder to this machine.")
    settings = PretrainSettings.model_validate(job["settings"])
    before = Continuation.of_job(job["from"]) if "from" in job else None
    program = _program(prepared, settings, before)
    train(program, settings.training, checkpoints=None, tracker=Tracker(), progress=Progress("silent"))


def _resolved(settings: PretrainSettings | None, before: Continuation | None) -> PretrainSettings:
    """The settings that hold: those given, else those of the encoder to go on from, else the defaults."""
    if settings is None:
        layers = [] if before is None else [settings_layer(before.folder)]
        settings = load_settings(PretrainSettings, layers=layers)
    if before is None:
        return settings
    training = before.check_settings(settings.encoder, settings.training)
    return settings.model_copy(update={"training": training})


def _program(prepared: PreparedLog, settings: PretrainSettings, before: Continuation | None) -> PretrainingProgram:
    vocabulary = prepared.vocabulary
    if before is None:
        encoder = build_encoder(settings, vocab_size=len(vocabulary), fingerprint=vocabulary.fingerprint)
    else:
        before.check_data(prepared)
        encoder = before.grown(prepared)
    return PretrainingProgram(
        encoder,
        train=prepared.sequences("train"),
        validation=prepared.sequences("validation"),
        objective=settings.objective,
        settings=settings.training,
    )


def build_encoder(settings: PretrainSettings, *, vocab_size: int, fingerprint: str) -> UserEncoder:
    """A fresh encoder, its weights drawn from the training seed alone."""
    _, model = encoder_class(settings.encoder.kind)
    config = settings.encoder.config(vocab_size=vocab_size, fingerprint=fingerprint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        return model(config)


def usage(path: Path, prepared: PreparedLog) -> list[str]:
    """Commands that use the encoder, as they can be pasted where it was made."""
    encoder = shlex.quote(str(path))
    return [
        f"peterrec finetune --task gender --encoder {encoder}",
        f"peterrec encode LOG {column_options(prepared)} --encoder {encoder} --output vectors.parquet",
        "# in Python\nimport peterrec\nfrom transformers import AutoModel\n"
        f'encoder = AutoModel.from_pretrained("{path}")',
    ]
