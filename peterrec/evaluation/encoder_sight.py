"""What the encoder of a cold start may have seen in pretraining, in words."""

from pathlib import Path

from peterrec.data.cross_domain import PairedLogs
from peterrec.errors import RefusedError, SettingsError
from peterrec.run_record import data_of, read_run


def encoder_sight(encoder: Path, pairs: PairedLogs) -> str:
    """Which events of test users pretraining may have shown, as far as run and data of the encoder tell it."""
    rule = pairs.summary.get("rule")
    if rule is None:
        return (
            "The encoder was pretrained without any target event; if that was on the source log, it has seen source "
            "events of test users, those after the event that is tested included."
        )
    cut = _cut(encoder)
    if cut is None:
        return (
            "The encoder knows no target item. Whether its log was cut at the target events is not known, since the "
            "data that it was pretrained on are no longer there."
        )
    if cut.get("before_target") and (cut.get("column"), cut.get("value")) == (rule["column"], rule["value"]):
        return "The encoder knows no target item, and no source event after a user's last target event."
    return (
        "The encoder knows no target item, but its log was not cut (`peterrec prepare --before-target`): it may have "
        "seen source events of test users after the event that is tested."
    )


def _cut(encoder: Path) -> dict[str, object] | None:
    """How the log of an encoder was cut; None where that cannot be read any more."""
    try:
        data = data_of(encoder, read_run(encoder, stage="pretrain"))
        settings = read_run(data, stage="prepare").get("settings")
    except (SettingsError, RefusedError):
        return None
    found = settings.get("without_items") if isinstance(settings, dict) else None
    return found if isinstance(found, dict) else {}
