"""One more position through the blocks of a causal encoder, from the past inputs that its layers remember."""

from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from peterrec.encoders.bare import is_bare
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.block_steps import step_of
from peterrec.encoders.dilated import DilatedConv, TimeMajorEmbedding
from peterrec.encoders.input_rings import InputRings, Places
from peterrec.errors import SettingsError

READS = ("product", "taps", "window", "block")


@dataclass(frozen=True)
class Ring:
    """The ring of a convolution or of a whole block, and in what form its step reads it."""

    reads: str
    number: int  # among the rings of its memory
    span: int
    conv: DilatedConv | None  # where taps are read

    @property
    def backs(self) -> list[int]:
        """How many events ago the inputs were taken that are read, oldest first."""
        if self.conv is None:
            return list(range(self.span, 0, -1))
        return [tap * self.conv.dilation for tap in range(self.conv.kernel_size - 1, 0, -1)]


class Increment:
    """The blocks of an encoder as they now are, ready to take one new position of many users at a time.

    What convolutions remember stands in `rings`, what whole blocks do in `block_rings`. The past taps of all
    convolutions are one gather, and in blocks where nothing is wrapped one batched product; each convolution then adds
    the product of its new input. Raises SettingsError for an encoder that is not causal, or computes otherwise than
    `UserEncoder` does.
    """

    def __init__(self, encoder: UserEncoder):
        _check(encoder)
        self.encoder = encoder
        self.device, self.dtype = encoder.device, encoder.dtype
        table = encoder.get_input_embeddings()
        self._table: Tensor | None = None
        if (
            isinstance(table, TimeMajorEmbedding)
            and is_bare(table, TimeMajorEmbedding)
            and is_bare(encoder.embed_dropout, nn.Dropout)
        ):
            self._table = table.weight
        self._steps = [step_of(encoder, number) for number in range(len(encoder.blocks))]
        self._order: list[list[tuple[str, int]]] = []  # of each step: in which form, and at which place of that
        self._found: dict[str, list[Ring]] = {reads: [] for reads in READS}
        spans: dict[bool, list[int]] = {False: [], True: []}
        for step in self._steps:
            self._order.append([])
            for number, (reads, span) in enumerate(zip(step.reads, step.spans, strict=True)):
                kind = "block" if step.whole else reads
                conv = step.convolutions[number] if kind in ("product", "taps") else None
                self._order[-1].append((kind, len(self._found[kind])))
                self._found[kind].append(Ring(kind, len(spans[step.whole]), span, conv))
                spans[step.whole].append(span)
        width = next((step.width for step in self._steps if not step.whole), encoder.config.hidden_size)
        self.rings = InputRings(spans[False], width=width, device=self.device)
        self.block_rings = InputRings(spans[True], width=encoder.config.hidden_size, device=self.device)
        self._find_places()

    def _find_places(self) -> None:
        found, rings = self._found, self.rings
        tapped = found["product"] + found["taps"]
        self._taps = _places(rings, tapped, len(tapped), 1, -1) if tapped else None
        self._windows = _places(rings, found["window"], -1, 1) if found["window"] else None
        self._block_windows = _places(self.block_rings, found["block"], -1, 1) if found["block"] else None
        self._newest = rings.places(range(len(rings.spans)), [0] * len(rings.spans), -1, 1)
        blocks = len(self.block_rings.spans)
        self._newest_block = self.block_rings.places(range(blocks), [0] * blocks, -1, 1)
        bare = [ring.conv.linear for ring in found["product"] if ring.conv is not None]
        self._weight = self._bias = None
        if bare:
            past = bare[0].in_features - rings.width
            self._weight = torch.stack([linear.weight.detach()[:, :past].t() for linear in bare])
            self._bias = torch.stack([linear.bias.detach() for linear in bare]).unsqueeze(1)

    def embed(self, items: Tensor) -> Tensor:
        """Item rows `(B,)`, none of them PAD, to embeddings `(B, D)`."""
        if self._table is not None:
            return torch.embedding(self._table, items)
        return self.encoder.embed(items.unsqueeze(1))[0].squeeze(1)

    def encode(self, hidden: Tensor, valid: Tensor, domain_ids: Tensor | None, memory: list[Tensor]) -> Tensor:
        """Embeddings of histories `(B, L, D)`, all ending in the last column, to their states; fills their `memory`."""
        mask = valid.unsqueeze(2).to(hidden.dtype)
        clock, users = valid.sum(dim=1), torch.arange(len(valid), device=valid.device)
        numbers = {False: count(), True: count()}  # of the next ring of a convolution, of a whole block

        def keep(inputs: Tensor, *, whole: bool) -> None:
            rings, kept, number = self.block_rings if whole else self.rings, memory[whole], next(numbers[whole])
            span = min(rings.spans[number], inputs.shape[1])
            places = rings.places([number] * span, list(range(span, 0, -1)), -1, 1)
            rows = places.rows(clock, users * rings.size)
            newest = inputs[:, -span:].transpose(0, 1).reshape(-1, rings.width)
            kept[rows.view(-1)] = newest.to(kept.dtype)

        for step in self._steps:
            hidden = step.encode(hidden, mask, domain_ids, partial(keep, whole=step.whole))
        return hidden

    def advance(
        self,
        hidden: Tensor,
        clock: Tensor,
        users: Tensor,
        domain_ids: Tensor | None,
        memory: list[Tensor],
        *,
        remember: bool,
    ) -> Tensor:
        """Embeddings `(B, D)` of the next event of `users` `(B,)` to their new states `(B, D)`.

        `clock` `(B,)` are the events that they have had. With `remember` the event stays in `memory`.
        """
        past = self._past(clock, users, memory)
        inputs: list[Tensor] = []
        block_inputs: list[Tensor] = []
        for step, order in zip(self._steps, self._order, strict=True):
            own = [past[reads][place] for reads, place in order]
            if step.whole:
                window = own[0]
                back = torch.arange(len(window), -1, -1, device=self.device)
                own.append(back <= clock.unsqueeze(1))  # which positions of the window are no earlier than the first
            hidden = step.advance(hidden, own, domain_ids, block_inputs if step.whole else inputs)
        if remember:
            for kept, newest, places, rings in zip(
                memory,
                (inputs, block_inputs),
                (self._newest, self._newest_block),
                (self.rings, self.block_rings),
                strict=True,
            ):
                if newest:
                    rows = places.rows(clock, users * rings.size)
                    kept[rows.view(-1)] = torch.cat(newest).to(kept.dtype)  # twice as quick as index_copy_
        return hidden

    def _past(self, clock: Tensor, users: Tensor, memory: list[Tensor]) -> dict[str, list[Tensor]]:
        """For each form of reading, what is read by each ring that is read so."""
        past: dict[str, list[Tensor]] = {}
        offset = users * self.rings.size
        if self._taps is not None:
            rows = self._taps.rows(clock.view(1, -1, 1), offset.view(1, -1, 1))
            # half the time of index_select
            taps = torch.embedding(memory[0], rows.view(-1)).to(self.dtype).view(len(rows), len(clock), -1)
            bare = 0
            if self._weight is not None and self._bias is not None:
                bare = len(self._weight)
                past["product"] = list(torch.baddbmm(self._bias, taps[:bare], self._weight).unbind(0))
            past["taps"] = list(taps[bare:].unbind(0)) if len(taps) > bare else []
        if self._windows is not None:
            past["window"] = self._windowed("window", self._windows, clock, offset, memory[0])
        if self._block_windows is not None:
            offset = users * self.block_rings.size
            past["block"] = self._windowed("block", self._block_windows, clock, offset, memory[1])
        return past

    def _windowed(self, reads: str, places: Places, clock: Tensor, offset: Tensor, memory: Tensor) -> list[Tensor]:
        rows = places.rows(clock, offset)
        inputs = torch.embedding(memory, rows.view(-1)).to(self.dtype).view(*rows.shape, -1)
        return list(inputs.split([ring.span for ring in self._found[reads]]))


def _places(rings: InputRings, read: list[Ring], *shape: int) -> Places:
    pairs = [(ring.number, back) for ring in read for back in ring.backs]
    return rings.places([number for number, _ in pairs], [back for _, back in pairs], *shape)


def base_of(encoder: nn.Module) -> UserEncoder:
    """The encoder itself, a tuner's layers inside.

    Raises SettingsError for what is none, changes its input, or has something hung on it that changes its output.
    """
    if isinstance(encoder, UserEncoder):
        _check_calls(encoder)
        return encoder
    model: Any = encoder  # peft's own class is not known here
    base = model.get_base_model() if hasattr(model, "get_base_model") else None
    if not isinstance(base, UserEncoder):
        name = type(encoder).__name__
        hint = f" Of this {name} give model.encoder." if isinstance(getattr(model, "encoder", None), nn.Module) else ""
        raise SettingsError(f"A user state needs a UserEncoder or a PeftModel around one, got {name}.{hint}")
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        raise SettingsError("Adapters that put a prompt before the history keep no user state.")
    _check_calls(base, model, model.base_model)
    return base


def _check_calls(encoder: UserEncoder, *around: nn.Module) -> None:
    """A state runs the blocks itself, so that what a call of the encoder does beside them would be left out.

    A hook in front of a model `around` the encoder may stand: our tuners refuse mixed adapters there.
    """
    for module in (encoder, *around):
        hooks = module._forward_hooks or (module is encoder and module._forward_pre_hooks)
        if hooks or "forward" in module.__dict__:
            raise SettingsError(
                f"{type(module).__name__} has a hook or a replaced forward, which user states cannot follow: take it "
                "off (of a model that accelerate prepared, unwrap it), or encode the histories as a whole."
            )


def _check(encoder: UserEncoder) -> None:
    if not encoder.config.causal:
        raise SettingsError(
            "A two-sided encoder keeps no user state: each new event changes the states of all earlier ones, so "
            "the history must be encoded again. Use an encoder with causal = true."
        )
    for name in ("embed", "run_blocks", "forward"):
        if getattr(type(encoder), name) is not getattr(UserEncoder, name):
            raise SettingsError(
                f"{type(encoder).__name__} has a {name} of its own, which user states do not know: encode its "
                "histories as a whole."
            )
