"""What a person sees of a training."""

import io

import pytest
from rich.console import Console

from peterrec.training.progress import Mode, Progress

RECORD = {
    "epoch": 2,
    "loss": 0.51234,
    "validation": {"ndcg@10": 0.25, "auc": None},
    "targets_per_second": 12345.6,
    "seconds": 1.26,
}


def follow(mode: Mode, *, terminal: bool) -> tuple[str, str]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160, color_system=None)
    progress = Progress(mode, console=console)
    progress.begin(epochs=3, epochs_done=1)
    progress.epoch(2, steps=10, done=4)
    for value in (3.0, 2.0):
        progress.step(targets=100)
        progress.loss(value)
    progress.validating()
    progress.end_epoch(RECORD, best=True)
    progress.note("[a note]")
    progress.end()
    return progress.mode, out.getvalue()


LINE = "epoch   2  loss 0.5123  ndcg@10 0.2500  auc –  12,346 targets/s  1.3 s  best"


def test_a_log_file_gets_one_plain_line_an_epoch() -> None:
    assert follow("auto", terminal=False) == ("lines", f"training:\n{LINE}\n[a note]\n")


def test_a_terminal_gets_bars_and_keeps_the_lines() -> None:
    mode, text = follow("auto", terminal=True)
    assert mode == "bars"
    assert LINE in text
    assert "[a note]" in text
    assert "2/3" in text  # epochs
    assert "6/10" in text  # steps, those of the earlier process included


def test_silence() -> None:
    assert follow("silent", terminal=True) == ("silent", "")


def test_the_displayed_loss_is_a_running_mean() -> None:
    progress = Progress("silent")
    for value in (3.0, 2.0):
        progress.loss(value)
    assert progress._loss == pytest.approx(2.9)
