"""AdamW over what is trainable; an update with numbers that are not finite never happens."""

import math

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from peterrec.errors import RefusedError, SettingsError
from peterrec.training.settings import TrainingSettings

# peft's vectors in the shape of matrices: rows of an embedding, factors that rest at 1, biases
VECTORS = ("trainable_tokens_delta", ".ia3_l.", ".beft_bias.")


class NotFiniteError(Exception):
    """The loss or the gradient of `step` (from 0) was not finite; `reason` says which, if that is known."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step = step
        self.reason = reason


class Updater:
    """Fused AdamW with gradient clipping (Loshchilov & Hutter, Decoupled Weight Decay Regularization, 2019).

    Only parameters with `requires_grad` are known to it. Weights of two and more dimensions decay, except
    those of embeddings; biases, norms and other vectors do not.

    On CUDA nothing waits for the device: a bad loss or gradient raises a flag there, from which on AdamW's
    own kernel leaves all as it is, and `check` reads the flag now and then. Elsewhere each step is checked.
    """

    def __init__(self, model: nn.Module, *, settings: TrainingSettings, accelerator: Accelerator) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise SettingsError("There is nothing to train: every parameter is frozen.")
        self._accelerator = accelerator
        self._settings = settings
        embeddings = {
            id(p)
            for module in model.modules()
            if isinstance(module, nn.Embedding | nn.EmbeddingBag)
            for p in module.parameters(recurse=False)
        }
        decaying = {
            n
            for n, p in self.parameters.items()
            if p.ndim >= 2 and id(p) not in embeddings and not any(kind in n for kind in VECTORS)
        }
        groups = [
            {
                "params": [p for n, p in self.parameters.items() if (n in decaying) == decays],
                "weight_decay": rate,
            }
            for decays, rate in ((True, settings.weight_decay), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=settings.learning_rate, betas=settings.betas, fused=True
        )
        self._deferred = accelerator.device.type == "cuda"
        if self._deferred:
            self._bad_step = torch.full((), -1, device=accelerator.device, dtype=torch.int64)

    def add(self, loss: Tensor) -> None:
        """Adds the gradient of a piece's share of the loss to those of the pieces before it."""
        self._accelerator.backward(loss)

    def update(self, loss: Tensor, *, step: int, rate: float) -> None:
        """One step along the gradients added up, with the learning rate `rate`; `loss` is their value, without a graph.

        Raises `NotFiniteError`, on CUDA perhaps only at a later `check`; no parameter has changed since then.
        """
        if not self._deferred and not math.isfinite(value := loss.item()):
            self.optimizer.zero_grad()
            raise NotFiniteError(step, f"the loss is {value}")
        norm = self._accelerator.clip_grad_norm_(list(self.parameters.values()), self._settings.clip or math.inf)
        assert norm is not None
        if self._deferred:
            bad = ~(torch.isfinite(norm) & torch.isfinite(loss))
            self._bad_step.copy_(torch.where((self._bad_step < 0) & bad, step, self._bad_step))
            self.optimizer.found_inf = (self._bad_step >= 0).float()  # type: ignore[attr-defined]  # its protocol
        elif not math.isfinite(value := norm.item()):
            self.optimizer.zero_grad()
            raise NotFiniteError(step, f"the norm of the gradient is {value}")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def check(self) -> None:
        """Raise `NotFiniteError` if a step since the last check was bad; waits for the device."""
        if self._deferred and (step := int(self._bad_step.item())) >= 0:
            raise NotFiniteError(step, "the loss or its gradient is not finite")

    def state(self) -> dict[str, Tensor]:
        """AdamW's moments and counts as `<parameter>/<key>`."""
        found = {}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"{name}/{key}"] = value
        return found

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave; `RefusedError` if it belongs to other parameters."""
        for path, value in tensors.items():
            name, _, key = path.rpartition("/")
            parameter = self.parameters.get(name)
            if parameter is None or (value.ndim and value.shape != parameter.shape):
                raise RefusedError(
                    f"The checkpoint has an optimiser's state for {name}, which this model lacks or has "
                    "in another shape; start afresh with --overwrite."
                )
            self.optimizer.state[parameter][key] = value.to(parameter.device)
