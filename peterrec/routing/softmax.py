"""Gates: mixtures of experts (OMoE, MMoE, PLE)."""

import torch
from torch import Tensor, nn

from peterrec.body_recipe import BodyLayer
from peterrec.errors import SettingsError
from peterrec.mlp import RowLinear
from peterrec.routing.router import Router
from peterrec.routing.wiring import Wiring


class SoftmaxRouter(Router):
    """Gives each branch Σ_i g_i(x) f_i(x) over the experts that it sees, with g(x) = softmax(W x).

    One gate for all is OMoE, one an output MMoE (Ma et al., KDD 2018, section 4); with experts that only their own
    output and the shared branch see it is PLE (Tang et al., RecSys 2020, section 4). A gate reads the branch below
    of its output. `top_k` keeps the k largest of W x and gives the others no weight (Shazeer et al., ICLR 2017,
    section 2.1, without their noise and balancing losses; all experts are computed nevertheless). W starts as in
    `torch.nn.Linear`, a choice of ours. The softmax is computed in float32.
    """

    def __init__(self, layer: BodyLayer, wiring: Wiring, *, below: int, channels: int):
        super().__init__()
        self.top_k = layer.top_k
        self.inputs = wiring.gate_inputs
        self.experts = len(wiring.experts)
        visible = [wiring.visible(owner) for owner in wiring.branches]
        if layer.top_k is not None and layer.top_k > min(map(len, visible)):
            raise SettingsError(
                f"body: top_k = {layer.top_k}, and a gate sees {min(map(len, visible))} experts: lower top_k, or "
                "set more experts."
            )
        self.linears = nn.ModuleList(RowLinear(below, len(seen), bias=False) for seen in visible)
        self.names: list[str | None] = []  # of the buffers with the experts seen; None: all are
        for gate, seen in enumerate(visible):
            partial = len(seen) < self.experts
            self.names.append(f"visible_{gate}" if partial else None)
            if partial:
                self.register_buffer(f"visible_{gate}", torch.tensor(seen), persistent=False)
        self.mean: Tensor  # of the gates' weights over the last batch
        self.entropy: Tensor
        self.register_buffer("mean", torch.zeros(len(visible), self.experts), persistent=False)
        self.register_buffer("entropy", torch.zeros(len(visible)), persistent=False)

    def weights(self, below: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """The weights `(B, O, E)` in float32 that the gates give the experts, 0 for those that they do not see."""
        rows: list[Tensor] = []
        branches = below.unbind(1)
        for linear, branch, name in zip(self.linears, self.inputs, self.names, strict=True):
            row = self._softmax(linear(branches[branch], domain_ids=domain_ids).float())
            if name is not None:
                row = row.new_zeros(len(row), self.experts).index_copy(1, self.get_buffer(name), row)
            rows.append(row)
        return torch.stack(rows, dim=1)

    def forward(self, mapped: Tensor, below: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        weights = self.weights(below, domain_ids)
        self._note(weights.detach())
        return weights.to(mapped.dtype) @ mapped

    def gates(self) -> dict[str, Tensor]:
        """Means over the rows of the last batch: `weights` `(O, E)`, and `entropy` `(O,)` in natural units."""
        return {"weights": self.mean.clone(), "entropy": self.entropy.clone()}

    def _softmax(self, logits: Tensor) -> Tensor:
        if self.top_k is None or self.top_k == logits.shape[-1]:
            return logits.softmax(-1)
        largest, places = logits.topk(self.top_k, dim=-1)
        return torch.zeros_like(logits).scatter(-1, places, largest.softmax(-1))

    @torch.no_grad()
    def _note(self, weights: Tensor) -> None:
        # in place, which neither compiling nor captured graphs mind
        self.mean.copy_(weights.mean(0))
        self.entropy.copy_(torch.special.entr(weights).sum(-1).mean(0))
