"""What a person sees of a training: bars on a terminal, a line an epoch elsewhere, or nothing."""

import time
from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

Mode = Literal["auto", "bars", "lines", "silent"]


class Progress:
    """Follows one training; give it to `train`. Never asks a tensor for its value.

    The bar shows a running mean of the loss and the targets a second since the epoch began.
    """

    def __init__(self, mode: Mode = "auto", *, title: str = "training", console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.mode: Mode = ("bars" if self.console.is_terminal else "lines") if mode == "auto" else mode
        self._title = title
        self._bars: Bars | None = None
        self._loss: float | None = None
        self._targets = 0
        self._began = 0.0

    def begin(self, *, epochs: int, epochs_done: int = 0) -> None:
        """A training of at most `epochs` starts, or goes on."""
        if self.mode != "bars":
            self.note(f"{self._title}:")
            return
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
        )
        self._epochs = self._bars.add_task(self._title, total=epochs, completed=epochs_done, figures="")
        self._steps = self._bars.add_task("epoch", total=None, figures="")
        self._bars.start()

    def epoch(self, number: int, *, steps: int, done: int = 0) -> None:
        """Epoch `number` (from 1) of `steps` begins, `done` of which an earlier process made."""
        self._targets, self._began = 0, time.perf_counter()
        if self._bars is not None:
            self._bars.reset(self._steps, total=steps, completed=done, description=f"epoch {number}", figures="")

    def step(self, *, targets: int) -> None:
        """A step on `targets` targets is on its way."""
        self._targets += targets
        if self._bars is not None:
            self._bars.advance(self._steps)

    def loss(self, value: float) -> None:
        """The loss of the last step, told now and then."""
        self._loss = value if self._loss is None else 0.9 * self._loss + 0.1 * value
        if self._bars is not None:
            rate = self._targets / max(time.perf_counter() - self._began, 1e-9)
            self._bars.update(self._steps, figures=f"loss {self._loss:.4f}  {rate:,.0f} targets/s")

    def validating(self) -> None:
        """The epoch's steps are made and it is being validated."""
        if self._bars is not None:
            self._bars.update(self._steps, figures="validating …")

    def end_epoch(self, record: Mapping[str, Any], *, best: bool) -> None:
        """The epoch's line: loss, validation metrics, speed; the best so far is marked."""
        if self._bars is not None:
            self._bars.advance(self._epochs)
        figures = [f"loss {record['loss']:.4f}" if record["loss"] is not None else "loss –"]
        figures += [f"{k} {v:.4f}" for k, v in record.get("losses", {}).items() if v is not None]
        figures += [f"weight {k} {v:.3g}" for k, v in record.get("weights", {}).items()]
        figures += [f"{k} {v:.4f}" if v is not None else f"{k} –" for k, v in record["validation"].items()]
        figures.append(f"{record['targets_per_second']:,.0f} targets/s")
        figures.append(f"{record['seconds']:.1f} s")
        self.note(f"epoch {record['epoch']:>3}  {'  '.join(figures)}{'  best' if best else ''}")

    def note(self, text: str) -> None:
        """One plain line."""
        if self.mode != "silent":
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Take the bars away; the lines stay."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
