"""Histories to user vectors: which rows an encoder is given for a readout, and what becomes of its states."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peterrec.data.reading import Reading
from peterrec.data.vocabulary import TCL
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import BOTH_ENDS, LAST_POSITION, TCL_BEHIND, Pooled, Readout, ending_together
from peterrec.errors import SettingsError

Encoder = Callable[..., Any]  # a UserEncoder, or a PeftModel around one


def reading_of(base: UserEncoder, reader: Readout, *, max_length: int, window: int | None = None) -> Reading:
    """How the last `max_length` events are laid out for `reader`, in windows of at most `window` positions.

    An encoder that takes no more than `base.window` positions at a time is never given more. Raises SettingsError for
    TCL rows in front of a causal encoder, to which the first one would say nothing, and where nothing but the
    embeddings of TCL rows is read.
    """
    front = TCL if reader.kind == "tcl_ends" else None
    back = TCL if reader.kind in TCL_BEHIND else None
    sizes = [] if window is None else [window]
    if base.window is not None:  # it has learned no longer histories than config.max_length, whatever it can take
        sizes.append(min(base.window, base.config.max_length + (front is not None) + (back is not None)))
    if front is not None and base.config.causal:
        raise SettingsError(
            'The readout "tcl_ends" is for two-sided encoders: a causal one has read nothing at the first TCL row. '
            'Take the readout "tcl".'
        )
    if back is not None and max(reader.layers) == 0:
        raise SettingsError(
            f'The readout "{reader.kind}" of the embeddings alone (layer 0) is the TCL row\'s own, the same vector for '
            "every user: read "
            + ('a layer above it, or take the readout "mean".' if reader.depth else 'them with "mean" or "sqrtn".')
        )
    return Reading(
        max_length=max_length if reach_of(base, reader) is None else base.events_read(max_length, readout=reader.kind),
        window=min(sizes, default=None),
        front=front,
        back=back,
        parts="last" if reader.kind in LAST_POSITION else "ends" if reader.kind in BOTH_ENDS else "all",
    )


def reach_of(base: UserEncoder, reader: Readout, *, first_block: int = 0) -> int | None:
    """How many states below block `first_block` the user vectors of `reader` depend on; None: on all."""
    return base.reach(reader.kind, first_block=first_block) if reader.reads_top_alone else None


def pooled_users(
    encoder: Encoder,
    base: UserEncoder,
    reader: Readout,
    input_ids: Tensor,
    valid: Tensor,
    *,
    places: Tensor | None = None,
    domain_ids: Tensor | None = None,
    positions: int | None = None,
) -> Tensor:
    """Item rows `(N, L)` to users `(B, K, D)`, as `Readout.pooled` gives them; `base` is the encoder in `encoder`.

    With `places` `(B, M)` the rows are windows, as `Rows` has them, and each user's are pooled as if they were one.
    `domain_ids` are the users'. At most `positions` positions are encoded at a time, if given: what is then kept is
    one vector a window. Of a row longer than the encoder takes, the positions that it encodes are pooled.
    """
    valid = base.encoded(valid)
    if places is None:
        reach = reach_of(base, reader)
        if reach is None:
            states = states_of(encoder, base, reader, input_ids, valid, domain_ids=domain_ids)
            return reader.pooled(states, valid, input_ids)
        input_ids, valid = ending_together(input_ids, valid, positions=reach)
        output = encoder(input_ids=input_ids, attention_mask=valid, domain_ids=domain_ids, positions=1)
        return reader.pooled([output.last_hidden_state], valid[:, -1:])
    if domain_ids is not None:
        domain_ids = domain_ids.index_select(0, owners_of(places, rows=len(input_ids)))
    few = len(input_ids) if positions is None else max(positions // input_ids.shape[1], 1)
    parts = []
    for first in range(0, len(input_ids), few):
        now = slice(first, first + few)
        domains = None if domain_ids is None else domain_ids[now]
        states = states_of(encoder, base, reader, input_ids[now], valid[now], domain_ids=domains)
        parts.append(reader.pool(states, valid[now], input_ids[now]))
    return reader.join(joined(parts), places)


def states_of(
    encoder: Encoder,
    base: UserEncoder,
    reader: Readout,
    input_ids: Tensor,
    valid: Tensor,
    *,
    domain_ids: Tensor | None = None,
) -> list[Tensor]:
    """The states of item rows `(N, L)` that `reader` chooses, each `(N, L, D)`; no block runs for the embeddings."""
    if max(reader.layers) == 0 and type(base).embed is UserEncoder.embed:
        return [base.embed(input_ids, valid)[0]]
    if reader.reads_top_alone:
        return [encoder(input_ids=input_ids, attention_mask=valid, domain_ids=domain_ids).last_hidden_state]
    output = encoder(input_ids=input_ids, attention_mask=valid, domain_ids=domain_ids, output_hidden_states=True)
    return reader.chosen([*output.hidden_states[:-1], output.last_hidden_state])


def owners_of(places: Tensor, *, rows: int) -> Tensor:
    """The user of each row `(rows,)`, from each user's rows `(B, M)`, -1 being none."""
    users = torch.arange(len(places), device=places.device).unsqueeze(1).expand_as(places)
    owners = torch.zeros(rows + 1, dtype=torch.long, device=places.device)
    return owners.scatter(0, torch.where(places < 0, rows, places).reshape(-1), users.reshape(-1))[:rows]


def joined(parts: list[Pooled]) -> Pooled:
    """Rows that were pooled one part after the other."""
    if len(parts) == 1:
        return parts[0]

    def column(name: str) -> Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else torch.cat(found)

    total, weight = column("total"), column("weight")
    assert total is not None
    assert weight is not None
    return Pooled(total, weight, column("first"), column("peak"))
