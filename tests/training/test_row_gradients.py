"""Row-sparse gradients: sums of duplicates, the row of PAD, and what two processes would exchange."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from peterrec.encoders.table_shard import Owners, TableShard
from peterrec.training.row_gradients import RowGradient, _distinct, row_gradient, set_row_gradient, summed_rows

torch.set_num_threads(1)


def sparse(rows, values, *, size=50, is_coalesced=False):
    return torch.sparse_coo_tensor(
        rows[None], values, (size, values.shape[1]), check_invariants=True, is_coalesced=is_coalesced
    )


def draw(count, *, seed=0, size=50):
    random = np.random.default_rng(seed)
    rows = np.minimum(random.zipf(1.3, count) - 1, size - 1)
    return torch.from_numpy(rows), torch.from_numpy(random.normal(size=(count, 6))).float()


@pytest.mark.parametrize("count", [1, 2, 7, 400])
@pytest.mark.parametrize("seed", range(4))
def test_duplicates_are_summed_and_pad_has_no_gradient(count, seed):
    rows, values = draw(count, seed=seed)
    wanted = np.zeros((50, 6))
    np.add.at(wanted, rows.numpy(), values.double().numpy())
    wanted[0] = 0
    found = summed_rows(sparse(rows, values))
    assert found.rows.tolist() == sorted(set(rows.tolist()))
    np.testing.assert_allclose(found.values.numpy(), wanted[found.rows.numpy()], rtol=1e-5, atol=1e-5)


def test_what_is_summed_already_is_taken_as_it_is():
    rows, values = torch.tensor([0, 4, 9]), torch.ones(3, 2)
    found = summed_rows(sparse(rows, values, is_coalesced=True))
    assert found.rows.tolist() == [0, 4, 9]
    assert found.values.tolist() == [[0, 0], [1, 1], [1, 1]]


def test_there_may_be_nothing():
    found = summed_rows(sparse(torch.empty(0, dtype=torch.long), torch.empty(0, 3)))
    assert found.rows.shape == (0,)
    assert found.values.shape == (0, 3)


@pytest.mark.parametrize("rows", [[3], [0, 0, 0], [1, 1, 2, 5, 5, 5, 9], [0, 3, 3, 49], list(range(10))])
def test_where_nothing_may_wait_pad_fills_the_places_that_are_left(rows):
    in_order = torch.tensor(rows)
    found, starts = _distinct(in_order)
    distinct = sorted(set(rows))
    assert found.tolist() == distinct + [0] * (len(rows) - len(distinct))
    values = torch.arange(1.0, len(rows) + 1).unsqueeze(1)
    sums = F.embedding_bag(torch.arange(len(rows)), values, starts, mode="sum")[:, 0].tolist()
    wanted = [sum(v for v, row in zip(values[:, 0].tolist(), rows, strict=True) if row == each) for each in distinct]
    assert sums == wanted + [0] * (len(rows) - len(distinct))


def test_gradients_of_pieces_and_of_processes_add_up():
    torch.manual_seed(0)
    table, dense = nn.Embedding(50, 6, sparse=True), nn.Embedding(50, 6)
    dense.load_state_dict(table.state_dict())
    ids = [draw(60, seed=seed)[0] for seed in range(4)]
    for each in ids:  # a table that is read twice in a piece, and in several pieces
        for embedding in (table, dense):
            (embedding(each).square().sum() + embedding(each[:5]).sum()).backward()
    exchanged = []
    for _ in range(2):
        found = row_gradient(table.weight)
        assert found is not None
        exchanged.append(found)
    set_row_gradient(table.weight, RowGradient(*(torch.cat(parts) for parts in zip(*exchanged, strict=True))))
    found = row_gradient(table.weight)
    assert found is not None
    wanted = torch.zeros(50, 6).index_copy(0, found.rows, found.values)
    assert dense.weight.grad is not None
    torch.testing.assert_close(wanted[1:], 2 * dense.weight.grad[1:])
    assert wanted[0].abs().sum() == 0


def test_a_table_without_a_gradient_has_none_and_a_dense_one_is_a_mistake():
    table = nn.Embedding(5, 2, sparse=True)
    assert row_gradient(table.weight) is None
    table.weight.sum().backward()
    with pytest.raises(AssertionError, match="dense gradient"):
        row_gradient(table.weight)


@pytest.mark.parametrize("number", [0, 1])
def test_no_shard_waits_for_a_device_to_count_its_rows(number):
    owners = Owners(number=number, count=2, largest=lambda number: number)
    shard = TableShard.of(torch.zeros(31, 4, device="meta", requires_grad=True), owners)  # nothing there has a value
    set_row_gradient(
        shard, RowGradient(torch.zeros(9, dtype=torch.int64, device="meta"), torch.ones(9, 4, device="meta"))
    )
    found = row_gradient(shard)
    assert found is not None
    assert found.rows.shape == (9,)
    assert found.values.shape == (9, 4)
