"""`peterrec pretrain`: from a prepared log to a user encoder."""

import shlex
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from peterrec.data.prepared import PreparedLog, column_options, open_prepared
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.loading import encoder_class, encoder_revision, save_encoder
from peterrec.encoders.settings import EncoderSettings
from peterrec.evaluation.next_item import evaluate_next_item
from peterrec.report.files import write_results
from peterrec.run_folder import FORMAT_VERSION, output_folder, relative_to_run
from peterrec.settings import Settings, dump, to_toml
from peterrec.training.loop import train
from peterrec.training.pretraining import NextItemProgram, ObjectiveSettings, PretrainingSettings
from peterrec.training.progress import Mode, Progress
from peterrec.training.tracking import Mode as TrackerMode
from peterrec.training.tracking import open_tracker


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
    overwrite: bool = False,
    wandb: TrackerMode = "off",
    progress: Mode = "auto",
) -> dict[str, Any]:
    """Trains an encoder on the `train` part of the prepared folder `data`; returns what metrics.json holds.

    Early stopping looks at the `validation` part, the final figures come from `test`. An interrupted run goes on when
    called again with the same settings and data. The output folder is an encoder that `AutoModel.from_pretrained`
    reads. Raises DataError, SettingsError, ResourceError, DivergedError, BusyError.
    """
    settings = PretrainSettings.model_validate({}) if settings is None else settings
    prepared = open_prepared(data)
    resolved = {
        **dump(settings),
        "data": {
            "vocabulary": prepared.vocabulary.fingerprint,
            "split": {"name": prepared.split, **prepared.summary["split"]["parameters"]},
            "fingerprint": prepared.fingerprint,
        },
    }
    with output_folder(Path(output), stage="pretrain", overwrite=overwrite, resume=resolved) as folder:
        encoder = build_encoder(
            settings, vocab_size=len(prepared.vocabulary), fingerprint=prepared.vocabulary.fingerprint
        )
        program = NextItemProgram(
            encoder,
            train=prepared.sequences("train"),
            validation=prepared.sequences("validation"),
            objective=settings.objective,
            settings=settings.training,
        )
        shown = Progress(progress, title="pretraining")
        tracker = open_tracker(
            wandb,
            project="peterrec",
            name=f"pretrain {folder.path.name}",
            config=resolved,
            folder=folder.working_folder("wandb").parent if wandb != "off" else None,
        )
        try:
            result = train(
                program,
                settings.training,
                checkpoints=folder.checkpoints,
                metrics_file=folder.path / "metrics.jsonl",
                tracker=tracker,
                progress=shown,
            )
            trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
            facts = {"trained_parameters": trained, "trained_share": 1.0, "seconds": result.seconds}
            device = next(encoder.parameters()).device
            metrics = {
                "format_version": FORMAT_VERSION,
                "stage": "pretrain",
                "seeds": [settings.training.seed],
                **evaluate_next_item(prepared, encoder=encoder, device=device, model_facts=facts),
                "curves": result.history,
                "training": {
                    "epochs": result.epochs,
                    "best_epoch": result.best_epoch,
                    "stopped": result.stopped,
                    "steps": result.steps,
                    "seconds": result.seconds,
                    "targets_per_second": result.targets_per_second,
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
                },
                vocabulary_fingerprint=prepared.vocabulary.fingerprint,
                encoder_revision=revision,
                wandb_run=tracker.run_id,
            )
            tracker.finish(timeout=60)  # an artifact is on its way
        finally:
            tracker.finish()
    return metrics


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
