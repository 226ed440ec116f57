"""Tables of items of which each process holds a part of the rows, on torch's distributed tensors."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from peterrec.encoders.time_major import TimeMajorEmbedding

NOWHERE = -1  # the id of no row, which fills up lists of ids that are shorter than another process's


class Owners:
    """The processes that share the rows of tables, all those of the default group: this one is `number` of `count`.

    `largest` gives the largest number that any process calls it with, at once, and asks no device: what all must know
    before they exchange rows. Nothing here waits for the others before rows or tables are asked for.
    """

    def __init__(self, *, number: int, count: int, largest: Callable[[int], int]) -> None:
        self.number, self.count, self.largest = number, count, largest
        self._meshes: dict[str, DeviceMesh] = {}

    def rows_each(self, total: int) -> int:
        """How many of `total` rows a process holds; the last ones hold what is left."""
        return -(-total // self.count)

    def mesh(self, device: torch.device) -> DeviceMesh:
        """The processes as torch's distributed tensors know them."""
        if device.type not in self._meshes:
            self._meshes[device.type] = init_device_mesh(device.type, (self.count,))
        return self._meshes[device.type]

    def sum(self, value: Tensor) -> Tensor:
        """`value` summed over the processes."""
        return DTensor.from_local(value, self.mesh(value.device), [Partial()], run_check=False).full_tensor()


class TableShard(nn.Parameter):
    """The rows of a table `(V, D)` that this process holds, as a parameter `(1 + about V / processes, D)`.

    Rows stand in order, `Owners.rows_each` of them with each process (the layout `Shard(0)`), behind a spare row of
    zeros: row 0 stands for rows of others and never gets a gradient, as PAD in a whole table.

    `rows` looks up rows of the whole table and leaves their gradient here, summed over what all processes make of
    them: no process holds more than its part of table, gradient and the optimiser's state. `rows` and `whole` are
    called by all processes alike, in the same order.
    """

    owners: Owners
    total: int

    @classmethod
    def of(cls, table: Tensor, owners: Owners) -> "TableShard":
        """This process's part of `table` `(V, D)`, which all processes have alike."""
        each, first = owners.rows_each(len(table)), owners.number * owners.rows_each(len(table))
        rows = table.detach()[first : first + each]
        part = torch.cat([torch.zeros_like(rows[:1]), rows])
        shard = cls(part, requires_grad=table.requires_grad)
        shard.owners, shard.total = owners, len(table)
        return shard

    @property
    def first(self) -> int:
        """The row of the whole table with which this part begins."""
        return self.owners.number * self.owners.rows_each(self.total)

    def rows(self, ids: Tensor, *, sparse: bool = False, padding_idx: int | None = None) -> Tensor:
        """Rows `ids` `(...)` of the whole table as `(..., D)`; ids and their number may differ between processes.

        The ids of all processes are gathered, each process looks up those that it holds, and the sums go back to who
        asked (a reduce-scatter; its backward gathers the gradients). What travels does not depend on who holds which
        rows, so it does not matter that the frequent items stand together. With `sparse` the gradient is row-sparse.
        `padding_idx` reads zeros and gets no gradient.
        """
        return _exchange(self, ids, sparse=sparse, padding_idx=padding_idx)  # type: ignore[call-arg]  # disable's stub

    @torch.no_grad()
    def whole(self, part: Tensor | None = None) -> Tensor:
        """The whole table `(V, D)`, in all processes; or all of a tensor whose rows belong to those of the table, like
        a moment of its optimiser, `part` of which `(rows of this parameter, ...)` stands here."""
        own = (self.detach() if part is None else part)[1:].contiguous()
        shape = torch.Size((self.total, *own.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        mesh = self.owners.mesh(own.device)
        return DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride).full_tensor()

    def part_of(self, whole: Tensor) -> Tensor:
        """What `whole` `(V, ...)` makes here; undoes `whole`."""
        own = whole[self.first : self.first + len(self) - 1]
        return torch.cat([torch.zeros_like(whole[:1]), own])


@torch.compiler.disable
def _exchange(shard: TableShard, ids: Tensor, *, sparse: bool, padding_idx: int | None) -> Tensor:
    wanted, order = ids.reshape(-1), None
    numbers_known = wanted.device.type == "cpu"  # elsewhere, how many rows something has would wait for the device
    if numbers_known:
        wanted, order = torch.unique(wanted, return_inverse=True)
    most = shard.owners.largest(len(wanted))
    if most == 0:
        return F.embedding(ids, shard, sparse=sparse)
    mesh = shard.owners.mesh(shard.device)
    padded = F.pad(wanted, (0, most - len(wanted)), value=NOWHERE)
    asked = DTensor.from_local(padded, mesh, [Shard(0)], run_check=False).redistribute(placements=[Replicate()])
    found = held_rows(shard, asked.to_local(), sparse=sparse, padding_idx=padding_idx, compact=numbers_known)
    sums = DTensor.from_local(found, mesh, [Partial()], run_check=False).redistribute(placements=[Shard(0)])
    own = sums.to_local()[: len(wanted)]
    if order is not None:
        own = own.index_select(0, order)
    return own.reshape(*ids.shape, shard.shape[1])


def held_rows(shard: TableShard, asked: Tensor, *, sparse: bool, padding_idx: int | None, compact: bool) -> Tensor:
    """Rows `asked` `(N,)` of the whole table as `(N, D)`, zero where another process holds them.

    `compact` looks up no more rows than this process holds of them; else the spare row stands for the others.
    """
    before = shard.first - 1  # behind the spare row
    inside = (asked > before) & (asked < before + len(shard))
    if padding_idx is not None:
        inside &= asked != padding_idx
    if compact:
        places = inside.nonzero().squeeze(1)
        rows = F.embedding(asked[places] - before, shard, sparse=sparse)
        return rows.new_zeros(len(asked), shard.shape[1]).index_copy(0, places, rows)
    rows = F.embedding(torch.where(inside, asked - before, 0), shard, sparse=sparse)
    return torch.where(inside.unsqueeze(1), rows, 0.0)


class ShardedEmbedding(TimeMajorEmbedding):
    """A `TimeMajorEmbedding` of whose table this process holds a part; while it has the whole, it is an ordinary one.

    Looks up rows `(B, L)` and returns `(B, L, D)`; with a part, all processes call it alike.
    """

    def __init__(self, embedding: nn.Embedding, owners: Owners) -> None:
        shard = TableShard.of(embedding.weight, owners)
        super().__init__(len(shard), embedding.embedding_dim, _weight=shard.detach(), sparse=embedding.sparse)
        self.weight = shard
        self.num_embeddings, self.padding_idx = embedding.num_embeddings, embedding.padding_idx

    def forward(self, input: Tensor) -> Tensor:
        shard = self.weight
        if not isinstance(shard, TableShard):
            return super().forward(input)
        found = shard.rows(input.transpose(0, 1), sparse=self.sparse, padding_idx=self.padding_idx)
        return found.transpose(0, 1)

    def unsharded(self) -> TimeMajorEmbedding:
        """An ordinary embedding with the whole table; all processes call it."""
        shard = self.weight
        table = shard.whole() if isinstance(shard, TableShard) else shard.detach()
        found = TimeMajorEmbedding(
            len(table), self.embedding_dim, padding_idx=self.padding_idx, sparse=self.sparse, _weight=table
        )
        found.weight.requires_grad_(shard.requires_grad)
        return found
