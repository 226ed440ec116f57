"""How hidden states become one vector a user."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peterrec.encoders.positions import ending_together as ending_together
from peterrec.encoders.positions import first_valid, last_valid, state_at
from peterrec.encoders.positions import valid_positions as valid_positions
from peterrec.errors import SettingsError, did_you_mean

READOUTS = ("last", "tcl", "tcl_ends", "first_last", "mean", "sqrtn", "attention")
SUMS = ("mean", "sqrtn")  # those that add up all states
LAST_POSITION = ("last", "tcl")  # those that take the state at the last valid position
BOTH_ENDS = ("first_last", "tcl_ends")
TCL_BEHIND = ("tcl", "tcl_ends")  # those whose histories end with the TCL row


class Pooled(NamedTuple):
    """What rows, histories or windows of them, give to the vectors of their users: of K layers, `(N, K, D)`."""

    total: Tensor  # weighted sums, or states at the last valid positions
    weight: Tensor  # (N, 1, 1), sums of the weights
    first: Tensor | None = None  # states at the first valid positions
    peak: Tensor | None = None  # (N, 1, 1), the largest logit, by whose exponential sums and weights are divided


class Readout(nn.Module):
    """States of chosen layers at the valid positions to user vectors `(B, D)`; zeros for a user without positions.

    Kinds: `last`, the state at the last valid position; `tcl`, the same of histories that end with the TCL row;
    `first_last`, the sum of the states at the first and the last one; `tcl_ends`, the same of histories with the TCL
    row before and behind, as PeterRec's code reads its two-sided encoder; `mean`; `sqrtn`, the sum over the square root
    of the number of states, whose length tells how much a history agrees with itself; `attention`, Σ a_t h_t with
    a = softmax_t(q·h_t / √D + w[item_t]): a learned query q, and with `item_weights` a learned scalar w an item row.
    Both start at zero, so that it starts as `mean`.

    Of several `layers` (0: the embeddings, k: above block k, -1: the top of `depth` blocks) the states are mixed by
    softmax weights, equal at the start (the scalar mix of ELMo, Peters et al., NAACL 2018, §3.2). There are parameters
    only where something is learned. Sums are taken in float32 or wider, whatever autocast says.

    Raises SettingsError for an unknown kind, layers that there are not, and item weights without attention.
    """

    def __init__(
        self,
        kind: str,
        *,
        channels: int,
        depth: int,
        layers: Sequence[int] = (-1,),
        item_weights: bool = False,
        vocab_size: int = 0,
    ):
        super().__init__()
        if kind not in READOUTS:
            raise SettingsError(f"There is no readout {kind!r}. {did_you_mean(kind, READOUTS)}")
        if item_weights and kind != "attention":
            raise SettingsError(f"item_weights belong to the readout attention, and the readout is {kind}.")
        self.kind = kind
        self.depth = depth
        self.layers = layer_numbers(layers, depth=depth)
        self.query = nn.Parameter(torch.zeros(channels)) if kind == "attention" else None
        self.mix = nn.Parameter(torch.zeros(len(self.layers))) if len(self.layers) > 1 else None
        self.item_weights = nn.Parameter(torch.zeros(vocab_size)) if item_weights else None

    @property
    def reads_top_alone(self) -> bool:
        """Whether no layer below the top is read."""
        return self.layers == (self.depth,)

    @property
    def trains(self) -> bool:
        """Whether something in it is learned, and not frozen."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def stands(self) -> bool:
        """Whether `pooled` of states that stand still stands still: what trains comes after it, if anything does."""
        return self.query is None or not self.trains

    def is_like(self, kind: str, *, layers: Sequence[int], item_weights: bool) -> bool:
        """Whether it is what these settings make of the same encoder."""
        same = self.layers == layer_numbers(layers, depth=self.depth)
        return same and kind == self.kind and item_weights == (self.item_weights is not None)

    def chosen(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Of the states of all layers, embeddings first, those that it reads."""
        return [states[layer] for layer in self.layers]

    def forward(self, states: Sequence[Tensor], mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """The chosen layers' states, each `(B, L, D)`, where they are valid `(B, L)`, and item rows, to `(B, D)`.

        `input_ids` `(B, L)` are read by item weights alone.
        """
        return self.mixed(self.pooled(states, mask, input_ids)).to(states[0].dtype)

    def pooled(self, states: Sequence[Tensor], mask: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """As `forward`, before layers are mixed: `(B, K, D)`, K = 1 for attention, which mixes its states first."""
        return self._whole(self.pool(states, mask, input_ids))

    def pool(self, states: Sequence[Tensor], mask: Tensor, input_ids: Tensor | None = None) -> Pooled:
        """What rows `(N, L)` give to their users' vectors, for `join`; arguments as for `forward`."""
        with _no_autocast(mask.device):
            wide = [_wide(state) for state in states]
            if self.query is not None:
                return self._attend(self._mix_states(wide), mask, input_ids)
            if self.kind in SUMS:
                weights = mask.to(wide[0].dtype)
                totals = [torch.einsum("bld,bl->bd", state, weights) for state in wide]
                return Pooled(torch.stack(totals, dim=1), weights.sum(dim=1).view(-1, 1, 1))
            there = mask.any(dim=1)
            total = torch.stack([state_at(state, last_valid(mask)) for state in wide], dim=1)
            first = None
            if self.kind in BOTH_ENDS:
                first = torch.stack([state_at(state, first_valid(mask)) for state in wide], dim=1)
            return Pooled(total, there.to(total.dtype).view(-1, 1, 1), first)

    def join(self, rows: Pooled, places: Tensor) -> Tensor:
        """Windows to users, exactly as if each history were one row: `(B, K, D)`, as `pooled` gives it.

        `places` `(B, M)` are each user's rows of `rows`, oldest first, -1 where a user has fewer, in front.
        """
        there = (places >= 0).view(*places.shape, 1, 1)
        flat = places.clamp(min=0).reshape(-1)

        def of_users(column: Tensor) -> Tensor:
            return column.index_select(0, flat).view(*places.shape, *column.shape[1:])

        total, weight = of_users(rows.total), of_users(rows.weight)
        if rows.peak is not None:
            peaks = of_users(rows.peak).masked_fill(~(there & (weight > 0)), -torch.inf)
            highest = peaks.amax(dim=1, keepdim=True)
            scale = torch.exp(peaks - torch.where(highest.isinf(), 0.0, highest))
            return self._whole(Pooled((total * scale).sum(dim=1), (weight * scale).sum(dim=1)))
        if self.kind in SUMS:
            return self._whole(Pooled((total * there).sum(dim=1), (weight * there).sum(dim=1)))
        if rows.first is None:
            return total[:, -1]
        oldest = (places < 0).sum(dim=1).clamp(max=places.shape[1] - 1).view(-1, 1, 1, 1)
        first = of_users(rows.first)
        return total[:, -1] + first.gather(1, oldest.expand(-1, -1, *first.shape[2:])).squeeze(1)

    def mixed(self, pooled: Tensor) -> Tensor:
        """Layers `(B, K, D)` to user vectors `(B, D)`."""
        if self.mix is None or self.query is not None:
            return pooled[:, 0]
        with _no_autocast(pooled.device):
            return torch.einsum("bkd,k->bd", pooled, self._layer_weights(pooled))

    def extra_repr(self) -> str:
        return f"{self.kind}, layers={list(self.layers)}"

    def _layer_weights(self, like: Tensor) -> Tensor:
        assert self.mix is not None
        return torch.softmax(self.mix.to(like.dtype), dim=0)

    def _mix_states(self, states: list[Tensor]) -> Tensor:
        if self.mix is None:
            return states[0]
        weights = self._layer_weights(states[0]).unbind()
        mixed = states[0] * weights[0]
        for state, weight in zip(states[1:], weights[1:], strict=True):
            mixed = mixed + state * weight
        return mixed

    def _attend(self, hidden: Tensor, mask: Tensor, input_ids: Tensor | None) -> Pooled:
        assert self.query is not None
        logits = torch.einsum("bld,d->bl", hidden, self.query.to(hidden.dtype)) / math.sqrt(hidden.shape[2])
        if self.item_weights is not None:
            if input_ids is None:
                raise ValueError("A readout with item weights needs input_ids.")
            logits = logits + F.embedding(input_ids, self.item_weights.unsqueeze(1)).squeeze(2).to(hidden.dtype)
        valid = mask.bool()
        peak = logits.detach().masked_fill(~valid, -torch.inf).amax(dim=1, keepdim=True)
        peak = torch.where(peak.isinf(), 0.0, peak)
        # a padded logit may exceed the peak, and its exponential overflow
        weights = torch.exp((logits - peak).masked_fill(~valid, 0.0)) * valid
        total = torch.einsum("bld,bl->bd", hidden, weights)
        return Pooled(total.unsqueeze(1), weights.sum(dim=1).view(-1, 1, 1), peak=peak.view(-1, 1, 1))

    def _whole(self, rows: Pooled) -> Tensor:
        """Vectors of users who stand in one row each."""
        if self.kind in SUMS:
            count = rows.weight.clamp(min=1.0)
            return rows.total / (count if self.kind == "mean" else count.sqrt())
        if self.query is not None:
            return rows.total / torch.where(rows.weight > 0, rows.weight, 1.0)
        return rows.total if rows.first is None else rows.total + rows.first


def layer_numbers(layers: Sequence[int], *, depth: int, name: str = "layers") -> tuple[int, ...]:
    """Layers as they may be named, from the end too, as numbers from 0 (the embeddings) to `depth` (the top).

    Raises SettingsError, calling the setting `name`, for none, for one named twice, and for those that an encoder of
    `depth` blocks has not.
    """
    found = tuple(layer + depth + 1 if layer < 0 else layer for layer in layers)
    if not found or min(found) < 0 or max(found) > depth or len(set(found)) < len(found):
        raise SettingsError(
            f"{name} must name different layers from 0 (the embeddings) to {depth} (the top, also -1), "
            f"got {list(layers)}."
        )
    return found


def read_out(hidden: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Reduces hidden states `(B, L, D)` over the valid positions of `mask` `(B, L)` to `(B, D)`, as a fresh readout.

    A user without any position gets zeros.
    """
    if kind not in READOUTS:
        raise ValueError(f"Unknown readout {kind!r}.")
    # without a query attention is the mean
    return Readout("mean" if kind == "attention" else kind, channels=hidden.shape[2], depth=0)([hidden], mask)


def read_users(
    encoder: Callable[..., Any],
    input_ids: Tensor,
    valid: Tensor,
    *,
    readout: str,
    reach: int | None,
    domain_ids: Tensor | None = None,
) -> Tensor:
    """Item rows `(B, L)` to user vectors `(B, D)` by an encoder (or a PeftModel around one), from its top layer.

    `reach` is `UserEncoder.reach(readout)`: with one, only the states that the last position depends on are computed.
    """
    if reach is None:
        output = encoder(input_ids=input_ids, attention_mask=valid, domain_ids=domain_ids)
        return read_out(output.last_hidden_state, valid, readout)
    input_ids, valid = ending_together(input_ids, valid, positions=reach)
    output = encoder(input_ids=input_ids, attention_mask=valid, domain_ids=domain_ids, positions=1)
    return read_out(output.last_hidden_state, valid[:, -1:], readout)


def _no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    enabled = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if enabled else nullcontext()


def _wide(states: Tensor) -> Tensor:
    return states.float() if states.dtype in (torch.float16, torch.bfloat16) else states
