"""Vectors of fields, against a loop over rows and values."""

import numpy as np
import pytest
import torch

from peterrec.data.impressions.field_batch import FieldBatch, FieldSizes
from peterrec.features.embeddings import FieldEmbeddings

SIZES = FieldSizes(
    names=("user", "item", "price", "age", "genres", "tags"), categorical=(4, 6), numeric=2, multi=(5, 3)
)


def filled(sizes: FieldSizes = SIZES, dim: int = 3) -> FieldEmbeddings:
    torch.manual_seed(0)
    fields = FieldEmbeddings(sizes, dim)
    with torch.no_grad():
        for parameter in fields.parameters():
            parameter.normal_()
    return fields


@pytest.fixture
def batch() -> FieldBatch:
    return FieldBatch(
        categorical=torch.tensor([[0, 5], [3, 0], [2, 1], [3, 4]]),
        numeric=torch.tensor([[0.5, -1.0], [0.0, 2.0], [1.5, 0.0], [0.0, 0.0]]),
        missing=torch.tensor([[False, False], [True, False], [False, True], [False, False]]),
        multi=(
            (torch.tensor([2, 3, 3, 1, 4]), torch.tensor([0, 3, 3, 4])),  # [2, 3, 3], none, [1], [4]
            (torch.tensor([2, 2]), torch.tensor([0, 1, 1, 2])),  # [2], none, [2], none
        ),
    )


def test_each_field_by_its_own_rule(batch):
    fields = filled()
    state = {name: value.numpy() for name, value in fields.state_dict().items()}
    lists = [[[2, 3, 3], [], [1], [4]], [[2], [], [2], []]]
    wanted = np.zeros((4, 6, 3), np.float32)
    for row in range(4):
        for place, start in enumerate((0, 4)):  # the second field's rows stand behind the first's
            wanted[row, place] = state["table.weight"][start + batch.categorical[row, place]]
        for place in range(2):
            slope, offset, missing = state["numeric"][:, place]
            absent = bool(batch.missing[row, place])
            wanted[row, 2 + place] = missing if absent else float(batch.numeric[row, place]) * slope + offset
        for place in range(2):
            table = state[f"multi.{place}.weight"]
            wanted[row, 4 + place] = table[lists[place][row] or [0]].mean(0)
    np.testing.assert_allclose(fields(batch).detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_unseen_values_start_at_zero_and_others_do_not():
    fields = FieldEmbeddings(FieldSizes(names=("a", "b", "c"), categorical=(900, 900), numeric=0, multi=(900,)), 8)
    for table in (*fields.table.weight.view(2, 900, 8), fields.multi[0].weight):
        zero = (table == 0).all(1)
        assert zero.nonzero().flatten().tolist() == [1]
        assert abs(table[~zero].std() - 0.05) < 0.005


def test_unseen_values_stay_at_zero_without_any_in_training(batch):
    seen = FieldBatch(
        categorical=torch.tensor([[2, 3], [3, 0]]),
        numeric=torch.zeros(2, 2),
        missing=torch.zeros(2, 2, dtype=torch.bool),
        multi=((torch.tensor([2]), torch.tensor([0, 1])), (torch.tensor([2]), torch.tensor([0, 0]))),
    )
    fields = FieldEmbeddings(SIZES, 3)
    optimizer = torch.optim.AdamW(fields.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (fields(seen) - 1).square().sum().backward()
        optimizer.step()
    assert (fields(batch)[2, 1] == 0).all()
    assert (fields(batch)[2, 4] == 0).all()
    assert (fields(batch)[3, 5] != 0).all()  # none at all is a value of its own, which has learned


def test_rows_do_not_know_each_other(batch):
    fields = filled()
    order = [2, 0, 3, 1]
    moved = FieldBatch(
        categorical=batch.categorical[order],
        numeric=batch.numeric[order],
        missing=batch.missing[order],
        multi=(
            (torch.tensor([1, 2, 3, 3, 4]), torch.tensor([0, 1, 4, 5])),
            (torch.tensor([2, 2]), torch.tensor([0, 1, 2, 2])),
        ),
    )
    torch.testing.assert_close(fields(moved), fields(batch)[order])
    alone = FieldBatch(
        categorical=batch.categorical[1:2],
        numeric=batch.numeric[1:2],
        missing=batch.missing[1:2],
        multi=((torch.tensor([], dtype=torch.long), torch.tensor([0])),) * 2,
    )
    torch.testing.assert_close(fields(alone), fields(batch)[1:2])


@pytest.mark.parametrize("kept", ["categorical", "numeric", "multi", "none"])
def test_fields_of_one_kind_alone(batch, kept):
    names = {"categorical": ("user", "item"), "numeric": ("price", "age"), "multi": ("genres", "tags"), "none": ()}
    sizes = FieldSizes(
        names=names[kept],
        categorical=SIZES.categorical if kept == "categorical" else (),
        numeric=2 if kept == "numeric" else 0,
        multi=SIZES.multi if kept == "multi" else (),
    )
    some = FieldBatch(
        categorical=batch.categorical if kept == "categorical" else torch.zeros(4, 0, dtype=torch.long),
        numeric=batch.numeric if kept == "numeric" else torch.zeros(4, 0),
        missing=batch.missing if kept == "numeric" else torch.zeros(4, 0, dtype=torch.bool),
        multi=batch.multi if kept == "multi" else (),
    )
    fields = filled(sizes)
    vectors = fields(some)
    assert vectors.shape == (4, len(names[kept]), 3)
    assert (vectors != 0).all()
    assert bool(list(fields.parameters())) == (kept != "none")
    if kept != "none":
        vectors.sum().backward()
    assert all(parameter.grad is not None for parameter in fields.parameters())


def test_gradients_reach_what_was_read_alone(batch):
    fields = filled()
    fields(batch).sum().backward()
    read = {4 * place + int(value) for place in range(2) for value in batch.categorical[:, place].tolist()}
    # the user's table has 4 rows, the item's begins behind them
    touched = fields.table.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert set(touched) == read
    counts = fields.multi[0].weight.grad[:, 0]
    torch.testing.assert_close(counts, torch.tensor([1.0, 1.0, 1 / 3, 2 / 3, 1.0]))
    torch.testing.assert_close(fields.numeric.grad[2, :, 0], torch.tensor([1.0, 1.0]))


def test_bfloat16_and_compiling(batch):
    fields = filled()
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(fields, backend="eager", fullgraph=True)(batch), fields(batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(fields(batch).float(), fields(batch), rtol=0.02, atol=0.02)


def test_all_of_it_is_saved(batch):
    fields, other = filled(), FieldEmbeddings(SIZES, 3)
    assert set(fields.state_dict()) == {name for name, _ in fields.named_parameters()}
    other.load_state_dict(fields.state_dict())
    assert torch.equal(other(batch), fields(batch))
