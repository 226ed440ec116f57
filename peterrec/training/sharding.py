"""The item tables of an encoder in training, their rows shared out over the processes of a launch."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from peterrec.encoders.base import UserEncoder
from peterrec.encoders.table_shard import Owners, ShardedEmbedding, TableShard
from peterrec.errors import SettingsError
from peterrec.training.processes import join


def shard_tables(encoder: UserEncoder, *, sampled: bool) -> None:
    """Leaves each process its part of the rows of the item table, and of an untied output.

    All processes do this with equal tables; nobody waits for the others. `sampled`: the training reads rows of the
    tables, never a table as a whole. Raises SettingsError where it does not, where there is one process, and for
    tables that are too small.
    """
    processes = join()
    if processes.count == 1:
        raise SettingsError(
            "shard_tables is on, but there is one process, so nothing to shard over: start with torchrun, e.g. "
            "`torchrun --nproc-per-node 2 -m peterrec pretrain …`, or set training.shard_tables=false."
        )
    if not sampled:
        raise SettingsError(
            "shard_tables needs a softmax that reads some rows of the table, but the exact one reads all of them in "
            "every step; set objective.softmax=sampled, or leave shard_tables off."
        )
    owners = Owners(
        number=processes.number, count=processes.count, largest=lambda number: int(processes.meet([number]).max())
    )
    total = encoder.embed_tokens.num_embeddings
    if owners.rows_each(total) * (owners.count - 1) >= total:
        raise SettingsError(
            f"shard_tables is on, but {total} rows do not go round among {owners.count} processes; leave it off."
        )
    encoder.embed_tokens = ShardedEmbedding(encoder.embed_tokens, owners)
    if encoder.output is not None:
        encoder.output.weight = TableShard.of(encoder.output.weight, owners)


def describe_sharding(model: nn.Module) -> str:
    """How the tables of `model` are sharded, as a line for the log."""
    shards = [shard for *_, shard in _places(model)]
    kind = "Item table" if len(shards) == 1 else f"{len(shards)} item tables"
    owners = shards[0].owners
    each = owners.rows_each(shards[0].total)
    return f"{kind} sharded over {owners.count} processes, {each:,} of {shards[0].total:,} rows each at most."


@contextmanager
def whole_tables(model: nn.Module, *, keep: bool = True) -> Iterator[None]:
    """Puts the whole tables into `model` for a while, frozen, so that one process may use it without the others.

    All processes enter, in which they exchange rows. Those that do not `keep` the tables drop them at once, and do
    not use the model meanwhile.
    """
    parts = list(_places(model))
    try:
        for module, name, shard in parts:
            table = shard.whole()
            if keep:
                setattr(module, name, nn.Parameter(table, requires_grad=False))
        yield
    finally:
        for module, name, shard in parts:
            setattr(module, name, shard)


def unshard_tables(model: nn.Module) -> None:
    """Puts the whole tables back into `model`, in all processes, which all call it; nothing is sharded any more."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ShardedEmbedding):
                setattr(module, name, child.unsharded())
    for module, name, shard in list(_places(model)):
        setattr(module, name, nn.Parameter(shard.whole(), requires_grad=shard.requires_grad))


def whole(tensor: Tensor, *, of: Tensor) -> Tensor:
    """A tensor that belongs to the parameter `of` as it is without sharding; all processes call it."""
    if isinstance(of, TableShard) and tensor.ndim and len(tensor) == len(of):
        return of.whole(tensor)
    return tensor


def part(tensor: Tensor, *, of: Tensor) -> Tensor:
    """What of a whole `tensor` that belongs to the parameter `of` stands in this process; undoes `whole`."""
    if isinstance(of, TableShard) and tensor.ndim and len(tensor) == of.total:
        return of.part_of(tensor)
    return tensor


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, TableShard]]:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, TableShard):
                yield module, name, parameter
