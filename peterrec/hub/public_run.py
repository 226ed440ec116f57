"""What of a run's run.json is published: settings and facts that loading needs; no paths, no users, no rows."""

from pathlib import Path
from typing import Any

from peterrec.errors import RefusedError, SettingsError
from peterrec.run_weights import kind_of

# what says how the model was made; where the data were, and what was tracked where, is left out
_SETTINGS = ("encoder", "objective", "training", "task", "adapter")
_FACTS = ("format_version", "stage", "peterrec", "vocabulary_fingerprint", "encoder_revision", "model")
_TEXTS = {".json", ".md", ".toml"}


def kind_of_run(run: dict[str, Any], folder: Path) -> str:
    """What kind of artefact a finished run would be. Raises SettingsError for one that is not published."""
    stage = run.get("stage")
    if stage == "pretrain":
        return "encoder"
    if stage == "finetune":
        return kind_of(run)
    raise SettingsError(
        f"{folder}: the output of `peterrec {stage}`; what is published are encoders (`peterrec pretrain`) and "
        "fine-tuned tasks (`peterrec finetune`)."
    )


def public_run(run: dict[str, Any], *, encoder: dict[str, str] | None) -> dict[str, Any]:
    """run.json as it is published; `encoder` says where the encoder of an adapter is, and which one."""
    settings = run.get("settings") or {}
    kept = {name: run[name] for name in _FACTS if name in run}
    kept["settings"] = {name: settings[name] for name in _SETTINGS if name in settings}
    kept["inputs"] = {} if encoder is None else {"encoder": encoder["place"]} if "place" in encoder else {}
    kept["published"] = {} if encoder is None else {"encoder": encoder}
    return kept


def check_private(folder: Path, *, run_folder: Path) -> None:
    """Raises RefusedError where a text in `folder` names a place of this machine: the home, that of the run."""
    places = {str(place) for place in (Path.home(), Path.cwd(), run_folder.resolve().parent) if len(str(place)) > 1}
    for path in sorted(folder.iterdir()):
        if path.suffix not in _TEXTS:
            continue
        text = path.read_text(encoding="utf-8")
        for place in sorted(places):
            if place in text:
                raise RefusedError(
                    f"{path.name} would be published with the path {place}: take it out of the settings or the recipe "
                    "that it comes from, and train or publish again."
                )
