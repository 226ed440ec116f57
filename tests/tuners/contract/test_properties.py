"""What the encoder promises of its positions and rows holds with a trained adapter inside."""

import pytest
import torch

BLOCKS = ["plain", "bottleneck"]


@pytest.mark.parametrize("block", BLOCKS)
def test_no_position_reads_a_later_one(case, block):
    model, ids = case.read_only(block), case.ids()
    full = case.hidden(model, ids)
    for position in (1, 4, 8):
        other = ids.clone()
        other[0, position:] = torch.randint(3, 53, (9 - position,), generator=torch.Generator().manual_seed(position))
        hidden = case.hidden(model, other)
        torch.testing.assert_close(hidden[0, :position], full[0, :position], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(hidden[0, position:], full[0, position:], atol=1e-3)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "two-sided"])
def test_padding_makes_no_difference(case, block, causal):
    model, ids = case.read_only(block, causal=causal), case.ids()
    hidden = case.hidden(model, ids)
    assert hidden[1, 5:].abs().sum() == 0
    right = case.hidden(model, torch.cat([ids, torch.zeros(4, 6, dtype=torch.long)], dim=1))
    left = case.hidden(model, torch.cat([torch.zeros(4, 6, dtype=torch.long), ids], dim=1))
    torch.testing.assert_close(right[:, :9], hidden, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(left[:, 6:], hidden, rtol=1e-5, atol=1e-5)
    assert right[:, 9:].abs().sum() == 0
    assert left[:, :6].abs().sum() == 0


@pytest.mark.parametrize("block", BLOCKS)
def test_a_row_does_not_depend_on_its_batch(case, block):
    model, ids = case.read_only(block), case.ids()
    hidden, domains = case.hidden(model, ids), case.domain_ids(4)
    for row in range(4):
        domain = None if domains is None else domains[row : row + 1]
        alone = case.hidden(model, ids[row : row + 1], domain_ids=domain)
        torch.testing.assert_close(alone, hidden[row : row + 1], rtol=1e-5, atol=1e-5)


def test_memory_stays_time_major(own):
    hidden = own.hidden(own.read_only(), own.ids())
    assert hidden.transpose(0, 1).is_contiguous()


def test_a_batch_as_long_as_it_is_wide(case):
    # with B = L, an index along the wrong axis raises nothing
    model, ids, domains = case.read_only(), case.ids(rows=9), case.domain_ids(9)
    alone = [
        case.hidden(model, ids[r : r + 1], domain_ids=None if domains is None else domains[r : r + 1]) for r in range(9)
    ]
    torch.testing.assert_close(case.hidden(model, ids), torch.cat(alone), rtol=1e-5, atol=1e-5)
