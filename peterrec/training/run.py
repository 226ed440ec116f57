"""One training under way: its epochs, steps, validations and checkpoints."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from peterrec.encoders.table_shard import TableShard
from peterrec.errors import DataError
from peterrec.training.balanced import balanced_gradients
from peterrec.training.checkpoint import commit, load_latest
from peterrec.training.compiled import Compiled
from peterrec.training.epoch_record import epoch_record, start_record
from peterrec.training.generators import seed_generators
from peterrec.training.interrupts import InterruptedRun, Interrupts
from peterrec.training.objective_losses import add_losses, mean_losses, objectives_of
from peterrec.training.optimizer import Updater
from peterrec.training.processes import Processes
from peterrec.training.program import Program
from peterrec.training.progress import Progress
from peterrec.training.schedule import learning_rate_factor
from peterrec.training.settings import TrainingSettings
from peterrec.training.sharding import unshard_tables
from peterrec.training.sharing import share_start
from peterrec.training.state import TrainingState, pack, unpack
from peterrec.training.table_update import end_row_updates
from peterrec.training.validation import Validation

Start = Callable[[torch.device], Mapping[str, float]]  # readies a model on a device before its first step
LOOK_EVERY = 20  # steps between looks at a CUDA device, each of which waits for it


class TrainingRun:
    """One call of `train`; of several processes, each makes its part of every step and the main one the rest."""

    def __init__(
        self,
        program: Program,
        settings: TrainingSettings,
        accelerator: Accelerator,
        *,
        processes: Processes,
        checkpoints: Path | None,
        progress: Progress,
    ) -> None:
        self.program = program
        self.settings = settings
        self.accelerator = accelerator
        self.processes = processes
        self.device = accelerator.device
        self.checkpoints = checkpoints
        self.progress = progress
        self.model = program.model.to(self.device)
        # tables whose rows are shared out take all processes to be gathered, for a validation or a checkpoint
        self.sharded = any(isinstance(p, TableShard) for p in self.model.parameters())
        self.compiled = Compiled(self.model, device=self.device, settings=settings) if settings.compile else None
        self.updater = Updater(self.model, settings=settings, accelerator=accelerator)
        self.balanced = balanced_gradients(program, self.updater, accelerator=accelerator, settings=settings)
        self.balancer = None if self.balanced is None else self.balanced.balancer
        exact = torch.float32 if self.device.type == "mps" else torch.float64  # mps has no double precision
        self.objectives = objectives_of(program)
        self.loss_sum = torch.zeros(1 + len(self.objectives), dtype=exact, device=self.device)
        self.validation = Validation(program, settings, processes=processes, sharded=self.sharded)
        self.state = TrainingState(total=1)
        self._since = time.perf_counter()

    def open(self, start: Start | None = None) -> dict[str, float] | None:
        """Go on from the newest checkpoint, or begin, with what `start` does to the model; what that found if it did.

        Of several processes the main one starts, and the others take its weights.
        """
        found = load_latest(self.checkpoints) if self.checkpoints is not None else None
        figures: dict[str, float] | None = None
        if found is None and start is not None:
            figures = dict(start(self.device)) if self.processes.main else {}
        if self.processes.count > 1:
            found = share_start(found, model=self.model, settings=self.settings, processes=self.processes)
        if found is None:
            # epochs differ a little in length; the first one stands for all
            self.state.total = max(1, self.settings.epochs * len(self.program.steps(1)))
            return figures
        self.state, self.validation.best = unpack(
            found,
            model=self.model,
            updater=self.updater,
            loss_sum=self.loss_sum,
            settings=self.settings,
            balancer=self.balancer,
        )
        if self.state.stopped is None:
            self.progress.note(f"Going on at epoch {self.state.epoch}, step {self.state.step}.")
        return None

    def judge_start(self, figures: Mapping[str, float], interrupts: Interrupts) -> tuple[dict[str, Any], bool]:
        """Validate the model as it starts, as epoch 0; the record, with `figures`, and whether it is the best."""
        validation = self._validate(interrupts, epoch=0)
        best = self.validation.judge(validation, state=self.state, epoch=0)
        record = start_record(self.state, validation, figures)
        self.state.history.append(record)
        return record, best

    def epoch(self, interrupts: Interrupts) -> tuple[dict[str, Any], bool]:
        """Make the rest of the epoch and validate; its record, and whether it is the best so far."""
        state, settings = self.state, self.settings
        steps = self.program.steps(state.epoch)
        if not len(steps):
            raise DataError(f"Epoch {state.epoch} has no batches: there is nothing to train on.")
        self.progress.epoch(state.epoch, steps=len(steps), done=state.done)
        self.model.train()
        look_every = LOOK_EVERY if self.device.type == "cuda" else 1
        for batch in steps[state.done :]:
            loss, stop = self.step(batch, interrupts)
            if state.step % look_every == 0:
                self.updater.check()
                self.progress.loss(loss.item())
            if stop:
                self.commit()
                raise self.interrupted()
            every = settings.checkpoint_every
            if every and state.step % every == 0 and state.done < len(steps):
                self.commit()
        self.updater.check()
        self._clock(of_steps=True)
        last = state.epoch == settings.epochs
        due = last or state.epoch % settings.validate_every == 0
        validation = self._validate(interrupts, epoch=state.epoch) if due else {}
        best = self.validation.judge(validation, state=state, epoch=state.epoch)
        told = mean_losses(self.loss_sum[1:], self.objectives, counts=state.epoch_counts)
        if self.balanced is not None:
            told |= self.balanced.end_epoch()
        record = epoch_record(
            state,
            validation,
            loss=self.loss_sum[0].item() / max(state.epoch_targets, 1),
            objectives=told,
            learning_rate=self._rate(state.step - 1),
        )
        state.history.append(record)
        if last:
            state.stopped = "epochs"
        elif self.validation.patience_ended(state):
            state.stopped = "patience"
            self.progress.note(
                f"Stopped after epoch {state.epoch}: no better {self.program.metric} in "
                f"{state.validations_since_best} validations; the best was epoch {state.best_epoch}."
            )
        state.epoch, state.done = state.epoch + 1, 0
        state.epoch_targets, state.epoch_seconds, state.epoch_counts = 0, 0.0, {}
        self.loss_sum.zero_()
        return record, best

    def step(self, batch: Any, interrupts: Interrupts) -> tuple[Tensor, bool]:
        """Make one step; its loss `()`, and whether a signal has come, in whichever process."""
        if self.compiled is not None:
            self.compiled.begin_step()
        state, processes = self.state, self.processes
        # dropout differs between processes, as it does between users
        purpose = "step" if processes.main else f"step/{processes.number}"
        seed_generators(self.settings.seed, purpose=purpose, number=state.step, device=self.device)
        targets = self.program.num_targets(batch)
        losses = torch.zeros(len(self.loss_sum), device=self.device)  # beside the step's, that of each objective
        loss, balanced = losses[0], self.balanced
        if balanced is not None:
            balanced.begin()
        for piece in self.program.pieces(batch, part=processes.number, parts=processes.count):
            loss += self._add(piece, weight=self.program.weight(batch)) if balanced is None else balanced.add(piece)
        add_losses(losses[1:], self.program, step=batch, counts=state.epoch_counts)
        pending = interrupts.pending
        if balanced is None:
            stop = processes.sum_gradients(list(self.updater.parameters.values()), loss=losses, stop=pending)
        else:
            stop = balanced.finish(losses, batch=batch, step=state.step, processes=processes, stop=pending)
        self.updater.update(loss, step=state.step, rate=self._rate(state.step))
        self.loss_sum[0].add_(loss.to(self.loss_sum.dtype), alpha=targets)
        self.loss_sum[1:].add_(losses[1:].to(self.loss_sum.dtype))
        state.epoch_targets += targets
        state.targets += targets
        state.step += 1
        state.done += 1
        self.progress.step(targets=targets)
        return loss, stop or (processes.count == 1 and interrupts.pending)

    def _add(self, piece: Any, *, weight: float) -> Tensor:
        """Adds a piece's share of a step of this weight to the gradients; its share of the loss `()`."""
        with self.accelerator.autocast():
            mean, own = self.program.loss(piece, self.device)
        share = mean * (own / weight)
        self.updater.add(share)
        return share.detach()

    def _rate(self, step: int) -> float:
        settings = self.settings
        return settings.learning_rate * learning_rate_factor(
            step, total=self.state.total, warmup=settings.warmup, schedule=settings.schedule
        )

    def _validate(self, interrupts: Interrupts, *, epoch: int) -> dict[str, float]:
        """The figures after `epoch`, which is the one under way, or 0."""
        self.progress.validating()
        found = self.validation.figures(interrupts, epoch=epoch, device=self.device)
        if found is None:
            if epoch:
                self.commit(of_steps=False)  # all steps of the epoch are made: going on means validating
            raise self.interrupted()
        self._clock(of_steps=False)
        return found

    def _clock(self, *, of_steps: bool) -> None:
        """Book the time since the last call."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self.state.seconds += seconds
        if of_steps:
            self.state.seconds_of_steps += seconds
            self.state.epoch_seconds += seconds

    def commit(self, *, of_steps: bool = True) -> None:
        """Write a checkpoint, if there is a folder; `of_steps`: the time until now went into steps."""
        self.updater.check()
        self._clock(of_steps=of_steps)
        if self.checkpoints is None and not self.sharded:
            return
        tensors, facts = pack(
            self.state,
            model=self.model,
            updater=self.updater,
            loss_sum=self.loss_sum,
            best=self.validation.best,
            settings=self.settings,
            balancer=self.balancer,
        )
        if self.checkpoints is not None:
            commit(self.checkpoints, step=self.state.step, tensors=tensors, facts=facts)
        self._clock(of_steps=False)

    def interrupted(self) -> InterruptedRun:
        """What to raise after a signal, once all processes are here: the first one to end takes the others down."""
        self.processes.meet()
        kept = "run the same command to go on" if self.checkpoints is not None else "nothing was saved"
        return InterruptedRun(f"Interrupted in epoch {self.state.epoch} after step {self.state.step}; {kept}.")

    def keep_best(self) -> None:
        """Put the best weights into the model, in all processes; it leaves training mode."""
        self.validation.put_best_back(self.state)
        if self.sharded:
            unshard_tables(self.model)
        end_row_updates(self.model)
        self.model.eval()

    def close(self) -> None:
        """Leave nothing behind on the model but its weights."""
        self.updater.drop_gradients()
        if self.compiled is not None:
            self.compiled.undo()
