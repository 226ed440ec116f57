"""Which blocks of an encoder a training moves, by their weights or by their dropout."""

from collections.abc import Iterable

from torch import nn

from peterrec.encoders.base import UserEncoder


def moving_blocks(encoder: nn.Module, base: UserEncoder, *, quiet: Iterable[nn.Module]) -> list[int]:
    """The numbers of the blocks of `base` in which something trains or drops out, in any order, perhaps repeated.

    `encoder` is `base` or a PeftModel around it. What stands outside of the blocks, and may reach the lowest (item
    table, a prompt, what a tuner shares between blocks), counts as block 0. `quiet` are dropouts that are never on.
    """
    blocks = {id(p): number for number, block in enumerate(base.blocks) for p in block.parameters()}
    unread = {id(p) for p in base.output.parameters()} if base.output is not None else set()
    trained = [blocks.get(id(p), 0) for p in encoder.parameters() if p.requires_grad and id(p) not in unread]
    off = {id(module) for module in quiet}

    def drops(module: nn.Module) -> bool:
        return any(isinstance(inner, nn.Dropout) and inner.p > 0 and id(inner) not in off for inner in module.modules())

    dropping = [number for number, block in enumerate(base.blocks) if drops(block)]
    return [*trained, *dropping, *([0] if drops(base.embed_dropout) else [])]
