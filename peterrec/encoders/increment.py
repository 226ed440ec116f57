"""One more position through the blocks of a causal encoder, from the past inputs that its layers remember."""

from collections.abc import Sequence
from itertools import accumulate, count
from typing import Any

import torch
from torch import Tensor, nn

from peterrec.encoders.bare import is_bare
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.block_steps import step_of
from peterrec.encoders.dilated import TimeMajorEmbedding
from peterrec.encoders.input_rings import Lines, RingGroup
from peterrec.errors import SettingsError


class Increment:
    """The blocks of an encoder as they now are, ready to take one new position of many users at a time.

    `groups` are the rings of what convolutions and whole blocks remember, alike ones together: where the weights of
    convolutions may be read, one batched product a group is that of all their past taps, on what a line holds as it
    stands; each convolution then adds the product of its new input. Raises SettingsError for an encoder that is not
    causal, or computes otherwise than `UserEncoder` does.
    """

    def __init__(self, encoder: UserEncoder):
        _check(encoder)
        self.encoder = encoder
        self.device, self.dtype = encoder.device, encoder.dtype
        self.channels: int = encoder.config.hidden_size
        table = encoder.get_input_embeddings()
        self._table: Tensor | None = None
        if (
            isinstance(table, TimeMajorEmbedding)
            and is_bare(table, TimeMajorEmbedding)
            and is_bare(encoder.embed_dropout, nn.Dropout)
        ):
            self._table = table.weight.detach()
        self._steps = [step_of(encoder, number) for number in range(len(encoder.blocks))]
        rings = [ring for step in self._steps for ring in step.rings]
        kinds = list(dict.fromkeys(ring.kind for ring in rings))
        self.groups = [RingGroup([ring for ring in rings if ring.kind == kind]) for kind in kinds]
        places = {kind: count() for kind in kinds}
        # of each ring, as they come, its group and its place there
        self.order = [(kinds.index(ring.kind), next(places[ring.kind])) for ring in rings]
        ends = list(accumulate((len(step.rings) for step in self._steps), initial=0))
        self._runs = list(zip(self._steps, ends[:-1], ends[1:], strict=True))
        # how many lines a ring of each group has, to go with a row of users
        dilations = [group.dilation for group in self.groups]
        self.dilations = torch.tensor(dilations, dtype=torch.long, device=self.device).unsqueeze(1)
        self._weights = [PastWeights(group) if group.reads == "product" else None for group in self.groups]
        self._on_cpu = self.device.type == "cpu"

    def embed(self, items: Tensor) -> Tensor:
        """Item rows `(B,)`, none of them PAD, to embeddings `(B, D)`."""
        if self._table is not None:
            return torch.embedding(self._table, items)
        return self.encoder.embed(items.unsqueeze(1))[0].squeeze(1)

    def products(self, users: int) -> list["Products | None"]:
        """Where `advance` may put the products of B users' past taps: for each group that has any."""
        return [
            None if own is None else Products(own.all.new_empty(len(own.all), users, own.all.shape[2]))
            for own in self._weights
        ]

    def encode(self, hidden: Tensor, valid: Tensor, domain_ids: Tensor | None, memory: Sequence[Tensor]) -> Tensor:
        """Embeddings of histories `(B, L, D)`, all ending in the last column, to their states.

        `memory` has the users' rings, a tensor a group, which are filled.
        """
        mask = valid.unsqueeze(2).to(hidden.dtype)
        clock, places = valid.sum(dim=1), iter(self.order)

        def keep(inputs: Tensor) -> None:
            number, place = next(places)
            group = self.groups[number]
            group.put(memory[number], place, inputs[:, -group.span :], clock)

        for step in self._steps:
            hidden = step.encode(hidden, mask, domain_ids, keep)
        return hidden

    def advance(
        self,
        hidden: Tensor,
        lines: Sequence[Lines],
        products: Sequence["Products | None"],
        clock: Tensor,
        domain_ids: Tensor | None,
        *,
        remember: bool,
    ) -> Tensor:
        """Embeddings `(B, D)` of the next event of some users to their new states `(B, D)`.

        `lines` are those of each group that this event reads, `clock` `(B,)` the events that the users have had;
        `products` are overwritten. With `remember` the event goes into the lines.
        """
        found = [self._past(number, lines[number], products[number]) for number in range(len(lines))]
        past = [found[group][place] for group, place in self.order]
        inputs: list[Tensor] = []
        for step, first, stop in self._runs:
            own = past[first:stop]
            if step.whole:
                window = own[0]
                back = torch.arange(len(window), -1, -1, device=self.device)
                own.append(back <= clock.unsqueeze(1))  # which positions of the window are no earlier than the first
            hidden = step.advance(hidden, own, domain_ids, inputs)
        if remember and inputs:
            for own in lines:
                own.move_up()
            newest = [lines[group].newest[place] for group, place in self.order]
            torch._foreach_copy_(newest, inputs)  # type: ignore[attr-defined]  # one call for all
        return hidden

    def _past(self, number: int, lines: Lines, products: "Products | None") -> Sequence[Tensor]:
        """What the rings of a group read, each in the form that its step wants."""
        group, weights = self.groups[number], self._weights[number]
        same = lines.matrices.dtype == self.dtype
        numbers = lines.matrices if same else lines.matrices.to(self.dtype)
        if weights is not None and products is not None:
            if numbers.shape[1] == 1 and self._on_cpu:
                each = lines.each if same else numbers.unbind(0)
                # for one user: a batch of products, however small, wakes all threads, and waits for them
                for read, weight, bias, product in zip(each, weights.each, weights.biases, products.each, strict=True):
                    torch.addmm(bias, read, weight, out=product)
            else:
                torch.baddbmm(weights.bias, numbers, weights.all, out=products.all)
            return products.each
        if group.reads == "taps":
            return numbers.unbind(0)
        return numbers.unflatten(2, (group.taps, group.width)).transpose(1, 2).unbind(0)


class Products:
    """What the past taps of a group's n convolutions add up to, `(n, B, D_out)`, and that of each."""

    def __init__(self, numbers: Tensor):
        self.all = numbers
        self.each = numbers.unbind(0)


class PastWeights:
    """The weights of the past taps of n convolutions, `(n, taps · D_in, D_out)`, and biases `(n, 1, D_out)`."""

    def __init__(self, group: RingGroup):
        linears = [ring.conv.linear for ring in group.rings if ring.conv is not None]
        past = group.taps * group.width
        self.all = torch.stack([linear.weight.detach()[:, :past].t() for linear in linears]).contiguous()
        self.bias = torch.stack([linear.bias.detach() for linear in linears]).unsqueeze(1)
        self.each, self.biases = self.all.unbind(0), self.bias.unbind(0)


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
    if None in encoder.spans:
        raise SettingsError(
            f"The blocks of {type(encoder).__name__} read all earlier events, of which a user state has no memory: "
            "encode its histories as a whole."
        )
    for name in ("embed", "run_blocks", "forward"):
        if getattr(type(encoder), name) is not getattr(UserEncoder, name):
            raise SettingsError(
                f"{type(encoder).__name__} has a {name} of its own, which user states do not know: encode its "
                "histories as a whole."
            )
