"""The update of what is trainable; one with numbers that are not finite never happens."""

import math

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from peterrec.encoders.base import UserEncoder
from peterrec.encoders.table_shard import TableShard
from peterrec.errors import RefusedError, SettingsError
from peterrec.training.clipping import clip_gradients, gradient_norm
from peterrec.training.row_gradients import row_gradient
from peterrec.training.row_updates import LazyAdam, RowUpdate, RowwiseAdagrad
from peterrec.training.settings import TrainingSettings

# peft's vectors in the shape of matrices: rows of an embedding, factors that rest at 1, biases
VECTORS = ("trainable_tokens_delta", ".ia3_l.", ".beft_bias.")

ADAMW_STATE = {"step", "exp_avg", "exp_avg_sq"}


class NotFiniteError(Exception):
    """The loss or the gradient of `step` (from 0) was not finite; `reason` says which, if that is known."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step = step
        self.reason = reason


def looked_up_tables(model: nn.Module) -> list[Tensor]:
    """The tables of `model` whose gradients are row-sparse: embeddings that say so, and what `item_rows` reads."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            found.append(module.weight)
        elif isinstance(module, UserEncoder) and module.output is not None:
            table = module.embed_tokens
            if isinstance(table, nn.Embedding) and table.sparse:
                found.append(module.output.weight)
    return found


class Updater:
    """Fused AdamW with gradient clipping (Loshchilov & Hutter, Decoupled Weight Decay Regularization, 2019).

    Only parameters with `requires_grad` are known to it. Weights of two and more dimensions decay, except
    those of embeddings; biases, norms and other vectors do not.

    `tables`, those of `looked_up_tables`, are updated row by row instead, by lazy Adam or as
    `settings.table_update` says, and do not decay; a step costs nothing that grows with their length.

    On CUDA nothing waits for the device: a bad loss or gradient raises a flag there, from which on all updates
    leave everything as it is, and `check` reads the flag now and then. Elsewhere each step is checked.
    """

    def __init__(self, model: nn.Module, *, settings: TrainingSettings, accelerator: Accelerator) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise SettingsError("There is nothing to train: every parameter is frozen.")
        self._accelerator = accelerator
        self._settings = settings
        looked_up = {id(p) for p in looked_up_tables(model)}
        self.tables = {name: p for name, p in self.parameters.items() if id(p) in looked_up}
        self._row_update = _row_update(settings) if self.tables else None
        self._row_states: dict[str, dict[str, Tensor]] = {}  # made at a table's first gradient
        self._owners = next((p.owners for p in self.parameters.values() if isinstance(p, TableShard)), None)
        dense = {name: p for name, p in self.parameters.items() if name not in self.tables}
        decaying = _decaying(model, dense)
        groups = [
            {"params": [p for n, p in dense.items() if (n in decaying) == decays], "weight_decay": rate}
            for decays, rate in ((True, settings.weight_decay), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]] or groups[:1],
            lr=settings.learning_rate,
            betas=settings.betas,
            fused=True,
        )
        self._deferred = accelerator.device.type == "cuda"
        if self._deferred:
            self._bad_step = torch.full((), -1, device=accelerator.device, dtype=torch.int64)

    def add(self, loss: Tensor, *, keep_graph: bool = False) -> None:
        """Adds the gradient of a piece's share of the loss to those of the pieces before it.

        `keep_graph`: another loss of the same piece goes backward after it. A loss that depends on nothing adds
        nothing: a step may have no row that counts.
        """
        if not loss.requires_grad:
            return
        if keep_graph:
            self._accelerator.backward(loss, retain_graph=True)
        else:
            self._accelerator.backward(loss)

    def update(self, loss: Tensor, *, step: int, rate: float) -> None:
        """One step along the gradients added up, with the learning rate `rate`; `loss` is their value, without a graph.

        Raises `NotFiniteError`, on CUDA perhaps only at a later `check`; no parameter has changed since then.
        """
        if not self._deferred and not math.isfinite(value := loss.item()):
            self.drop_gradients()
            raise NotFiniteError(step, f"the loss is {value}")
        rows = {name: found for name, p in self.tables.items() if (found := row_gradient(p)) is not None}
        whole, parts = [], []
        for name, parameter in self.parameters.items():
            gradient = rows[name].values if name in rows else parameter.grad
            if gradient is not None:
                (parts if isinstance(parameter, TableShard) else whole).append(gradient)
        norm = gradient_norm(whole, parts=parts, owners=self._owners)
        live = None
        if self._deferred:
            bad = ~(torch.isfinite(norm) & torch.isfinite(loss))
            self._bad_step.copy_(torch.where((self._bad_step < 0) & bad, step, self._bad_step))
            live = self._bad_step < 0
            self.optimizer.found_inf = (~live).float()  # type: ignore[attr-defined]  # its protocol
        elif not math.isfinite(value := norm.item()):
            self.drop_gradients()
            raise NotFiniteError(step, f"the norm of the gradient is {value}")
        if self._settings.clip:
            clip_gradients([*whole, *parts], largest=self._settings.clip, norm=norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        with torch.no_grad():
            for name, gradient in rows.items():
                assert self._row_update is not None
                table = self.tables[name]
                if name not in self._row_states:
                    self._row_states[name] = self._row_update.start(table)
                self._row_update.apply(table, self._row_states[name], gradient, rate=rate, live=live)
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget what `add` has added up."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def check(self) -> None:
        """Raise `NotFiniteError` if a step since the last check was bad; waits for the device."""
        if self._deferred and (step := int(self._bad_step.item())) >= 0:
            raise NotFiniteError(step, "the loss or its gradient is not finite")

    def state(self) -> dict[str, Tensor]:
        """Moments and counts as `<parameter>/<key>`."""
        found = {}
        for name, parameter in self.parameters.items():
            kept = self._row_states if name in self.tables else {name: self.optimizer.state.get(parameter, {})}
            for key, value in kept.get(name, {}).items():
                found[f"{name}/{key}"] = value
        return found

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave; `RefusedError` if it belongs to other parameters or to another update."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            name, _, key = path.rpartition("/")
            by_name.setdefault(name, {})[key] = value
        for name, state in by_name.items():
            if name in self.tables:
                self._load_rows(name, state)
                continue
            parameter = self.parameters.get(name)
            fits = parameter is not None and all(not v.ndim or v.shape == parameter.shape for v in state.values())
            if parameter is None or not fits or state.keys() != ADAMW_STATE:
                raise _other_state(name)
            for key, value in state.items():
                self.optimizer.state[parameter][key] = value.to(parameter.device)

    def _load_rows(self, name: str, state: dict[str, Tensor]) -> None:
        assert self._row_update is not None
        fresh = self._row_update.start(self.tables[name])
        if {k: v.shape for k, v in fresh.items()} != {k: v.shape for k, v in state.items()}:
            raise _other_state(name)
        for key, value in state.items():
            fresh[key].copy_(value)
        self._row_states[name] = fresh


def _row_update(settings: TrainingSettings) -> RowUpdate:
    if settings.table_update == "dense":
        raise SettingsError(
            'table_update = "dense", but the model has tables with row-sparse gradients; turn those off (sparse_rows '
            "of an encoder, sparse of an embedding), or choose another update."
        )
    return RowwiseAdagrad() if settings.table_update == "rowwise_adagrad" else LazyAdam(betas=settings.betas)


def _decaying(model: nn.Module, parameters: dict[str, nn.Parameter]) -> set[str]:
    """The names of those `parameters` of `model` that decay: matrices, but no embeddings."""
    embeddings = {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for p in module.parameters(recurse=False)
    }
    return {
        n
        for n, p in parameters.items()
        if p.ndim >= 2 and id(p) not in embeddings and not any(kind in n for kind in VECTORS)
    }


def _other_state(name: str) -> RefusedError:
    return RefusedError(
        f"The checkpoint has an optimiser's state for {name}, which this model lacks, has in another shape or updates "
        "in another way; start afresh with --overwrite."
    )
