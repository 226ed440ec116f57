"""The validations of a training: their figures, the best weights so far, and whether more of it is worth while."""

import math
from contextlib import nullcontext, suppress

import torch
from torch import Tensor

from peterrec.training.compiled import eager
from peterrec.training.generators import seed_generators
from peterrec.training.interrupts import Interrupts
from peterrec.training.processes import Processes
from peterrec.training.program import Program
from peterrec.training.settings import TrainingSettings
from peterrec.training.sharding import whole_tables
from peterrec.training.state import TrainingState, restore, snapshot


class Validation:
    """Validates `program` in the main process, for all of them, and keeps the `best` weights.

    With `sharded`, tables share out their rows: all processes take part, and each keeps its own.
    """

    def __init__(self, program: Program, settings: TrainingSettings, *, processes: Processes, sharded: bool) -> None:
        self.best: dict[str, Tensor] | None = None
        self._program = program
        self._model = program.model
        self._settings = settings
        self._processes = processes
        self._sharded = sharded

    def figures(self, interrupts: Interrupts, *, epoch: int, device: torch.device) -> dict[str, float] | None:
        """The main process's figures after `epoch`, in all processes; None where a signal came first."""
        self._model.eval()
        seed_generators(self._settings.seed, purpose="validation", number=epoch, device=device)
        found: dict[str, float] | None = None
        with whole_tables(self._model, keep=self._processes.main) if self._sharded else nullcontext():
            if self._processes.main:
                with suppress(KeyboardInterrupt), interrupts.immediate(), torch.no_grad(), eager():
                    if interrupts.pending:
                        raise KeyboardInterrupt
                    found = self._program.validate()
        found = self._processes.share(found and {name: float(value) for name, value in found.items()})
        metric = self._program.metric
        assert found is None or metric in found, f"validate() gives {sorted(found)}, not {metric}"
        return found

    def judge(self, figures: dict[str, float], *, state: TrainingState, epoch: int) -> bool:
        """Whether the `figures` of `epoch` are the best so far (the earliest of equals), whose weights are then kept,
        where those of the last epoch are not.

        Counts in `state` the validations since the best; without figures there was none.
        """
        if not figures:
            return False
        value = figures[self._program.metric]
        if math.isfinite(value) and (state.best_metric is None or value > state.best_metric):
            state.best_metric, state.best_epoch, state.validations_since_best = value, epoch, 0
            if not self._settings.keeps_last and (self._processes.main or self._sharded):
                self.best = snapshot(self._model)
            return True
        if state.step > self._settings.warmup:  # before that it has hardly begun to learn
            state.validations_since_best += 1
        return False

    def patience_ended(self, state: TrainingState) -> bool:
        """Whether as many validations as the settings have patience for came after the best one."""
        patient = self._settings.patience and not self._settings.keeps_last
        return bool(patient) and state.validations_since_best >= self._settings.patience

    def put_best_back(self, state: TrainingState) -> None:
        """Puts the weights to keep into the model, in all processes: of the best validation, if there was one."""
        if state.best_epoch is not None and not self._settings.keeps_last:
            best = self.best or {}
            restore(self._model, best if self._sharded else self._processes.share_tensors(best))
