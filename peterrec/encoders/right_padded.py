"""Encoders whose blocks read everything before a position, and so want the padding out of the way."""

from torch import Tensor

from peterrec.encoders.base import UserEncoder
from peterrec.encoders.padding import PaddingLast


class RightPaddedEncoder(UserEncoder):
    """Base of causal encoders whose blocks know of no padding: it is moved behind what is valid, which never reads it.

    So padding is exact wherever it stands, at the price of moving each batch that is not padded on the right alone; on
    a device every batch is moved, since looking at it would mean waiting. A block takes `(x, domain_ids=…)`, or, of an
    encoder that reads properties of events, `(x, properties, domain_ids=…)`.
    """

    def enter(self, hidden: Tensor, counts: Tensor) -> Tensor:
        """What goes into the first block, of the embeddings `(B, L, D)`, of which the first `counts` `(B,)` count."""
        return hidden

    def run_blocks(
        self,
        hidden: Tensor,
        valid: Tensor,
        *,
        first: int = 0,
        stop: int | None = None,
        positions: int | None = None,
        domain_ids: Tensor | None = None,
        property_ids: Tensor | None = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """Runs the blocks `[first, stop)` on `hidden` `(B, L, D)`; `states` gets what comes out of each.

        With `positions`, that many of the last positions come out; all are computed.
        """
        stop = len(self.blocks) if stop is None else stop
        properties = self.embed_properties(property_ids)
        moved = None if self._padding_is_unread(valid) else PaddingLast(valid, keep=self.window)
        if moved is not None:
            hidden = moved.move(hidden)
            properties = None if properties is None else moved.move(properties)
        extra = () if properties is None else (properties,)
        if first == 0 < stop:
            hidden = self.enter(hidden, valid.sum(dim=1))
        for block in self.blocks[first:stop]:
            hidden = block(hidden, *extra, domain_ids=domain_ids)
            if states is not None:
                states.append(hidden if moved is None else moved.back(hidden))
        if moved is not None:
            hidden = moved.back(hidden)
        return hidden if positions is None else hidden[:, -positions:]
