"""Clipping: the norm of torch's own, over dense and row-sparse gradients, and over the shards of all processes."""

import math

import pytest
import torch
from torch import nn

from peterrec.training.clipping import clip_gradients, gradient_norm
from peterrec.training.row_gradients import row_gradient

torch.set_num_threads(1)


@pytest.mark.parametrize("largest", [0.01, 1.0, 1e4])
def test_it_is_that_of_the_gradient_made_dense(largest):
    torch.manual_seed(0)
    table, linear = nn.Embedding(30, 4, padding_idx=0, sparse=True), nn.Linear(4, 3)
    ids = torch.randint(0, 12, (200,))  # many duplicates: a norm of unsummed values would be another
    linear(table(ids)).square().sum().backward()
    twin = nn.Parameter(torch.empty(30, 4))
    twin.grad = table.weight.grad.to_dense()
    others = [nn.Parameter(torch.empty_like(p)) for p in linear.parameters()]
    for other, p in zip(others, linear.parameters(), strict=True):
        other.grad = p.grad.clone()
    wanted = nn.utils.clip_grad_norm_([twin, *others], largest)
    rows = row_gradient(table.weight)
    gradients = [rows.values, *(p.grad for p in linear.parameters())]
    norm = gradient_norm(gradients)
    clip_gradients(gradients, largest=largest, norm=norm)
    torch.testing.assert_close(norm, wanted)
    torch.testing.assert_close(rows.values, twin.grad[rows.rows])
    for other, p in zip(others, linear.parameters(), strict=True):
        torch.testing.assert_close(p.grad, other.grad)
    after = math.sqrt(sum(g.square().sum().item() for g in gradients))
    assert after == pytest.approx(min(largest, wanted.item()), rel=1e-4)


class TwoOwners:
    """Another process whose shards have the norm 12."""

    def sum(self, value):
        return value + 144.0


def test_the_shards_of_all_processes_count():
    whole, part = torch.tensor([3.0, 0.0]), torch.tensor([[0.0, 4.0]])
    assert gradient_norm([whole], parts=[part], owners=TwoOwners()).item() == pytest.approx(13.0)
    assert gradient_norm([], parts=[part], owners=TwoOwners()).item() == pytest.approx(math.sqrt(160))
    assert gradient_norm([whole], parts=[], owners=TwoOwners()).item() == pytest.approx(math.sqrt(153))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows(bad):
    assert not torch.isfinite(gradient_norm([torch.ones(2), torch.tensor([[1.0, bad]])]))
