"""A run with a tracker beside it, which is finished however the run ends."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from peterrec.run_folder import RunFolder
from peterrec.training.tracking import Mode, Tracker, open_tracker

PROJECT = "peterrec"
PATIENCE = 60.0  # seconds for what a run that went well has still to send, such as an artifact


@contextmanager
def tracked_run(mode: Mode, *, name: str, config: Mapping[str, Any], folder: RunFolder) -> Iterator[Tracker]:
    """The tracker of the run `name` with the settings `config`, whose files go into its folder; `off` makes none."""
    kept = folder.working_folder("wandb").parent if mode != "off" else None
    tracker = open_tracker(mode, project=PROJECT, name=name, config=config, folder=kept)
    try:
        yield tracker
        tracker.finish(timeout=PATIENCE)
    finally:
        tracker.finish()
