"""The quick dropout: shares, expectation, independence, order in memory, and when it steps aside."""

import pytest
import torch
from torch import nn

from peterrec.encoders.dropout import LEVELS, Dropout, drop_, drop_out, kept_levels, random_words


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exactly_the_words_that_it_names_keep(dtype):
    words = torch.arange(-(2**15), 2**15).to(torch.int16)
    for kept in (0, 1, 13107, LEVELS - 1, LEVELS):
        found = drop_(torch.full((LEVELS,), 3.0, dtype=dtype), words, kept=kept)
        assert int((found == 3).sum()) == kept
        assert int((found == 0).sum()) == LEVELS - kept


def test_the_share_is_within_a_level_and_the_scale_is_its_inverse():
    for p in (0.1, 0.2, 1 / 3, 0.5, 0.999, 1e-9):
        assert abs(kept_levels(p) / LEVELS - (1 - p)) <= 0.5 / LEVELS
    torch.manual_seed(0)
    found = Dropout(0.2)(torch.ones(100))
    assert set(found.tolist()) == {0.0, float(torch.tensor(LEVELS / kept_levels(0.2)))}


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_shares_and_pairs_are_those_of_independent_draws(p):
    torch.manual_seed(0)
    kept = (Dropout(p)(torch.ones(2**20)) != 0).double()
    deviation = (p * (1 - p)) ** 0.5 / 2**10
    assert abs(float(kept.mean()) - (1 - p)) < 5 * deviation
    for lag in (1, 2, 3, 4, 64):  # four words come out of one draw
        together = ((kept[lag:] - (1 - p)) * (kept[:-lag] - (1 - p))).mean()
        assert abs(float(together)) < 5 * p * (1 - p) / 2**10
    again = (Dropout(p)(torch.ones(2**20)) != 0).double()
    assert abs(float(((kept - (1 - p)) * (again - (1 - p))).mean())) < 5 * p * (1 - p) / 2**10


def test_words_are_uniform_and_follow_the_generator():
    torch.manual_seed(0)
    words = random_words(2**18 + 1)
    assert words.shape == (2**18 + 1,)
    assert words.dtype == torch.int16
    counts = torch.bincount((words.int() + 2**15) // 1024, minlength=64).double()
    expected = len(words) / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 63 + 5 * (2 * 63) ** 0.5
    torch.manual_seed(0)
    assert torch.equal(random_words(2**18 + 1), words)
    assert not torch.equal(random_words(2**18 + 1), words)


def test_gradients_are_those_of_the_factors():
    x = torch.randn(4, 6, 8, requires_grad=True)
    out = Dropout(0.4)(x)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (out / x).detach())


def test_memory_order_is_kept_and_decides_the_draw():
    x = torch.ones(5, 3, 4).transpose(0, 1)
    torch.manual_seed(0)
    found = Dropout(0.5)(x)
    assert found.transpose(0, 1).is_contiguous()
    torch.manual_seed(0)
    assert torch.equal(Dropout(0.5)(x.transpose(0, 1)).transpose(0, 1), found)


@pytest.mark.parametrize("kind", [Dropout, nn.Dropout])
def test_it_does_nothing_outside_of_training_or_without_a_share(kind):
    x = torch.randn(3, 4)
    for dropout in (kind(0.5).eval(), kind(0.0)):
        assert dropout(x) is x
        assert drop_out(x, dropout) is x


def test_a_share_of_all_and_low_precision_go_the_stock_way():
    assert not Dropout(1.0)(torch.ones(50)).any()
    torch.manual_seed(0)
    low = Dropout(0.5)(torch.ones(1000, dtype=torch.bfloat16))
    torch.manual_seed(0)
    assert torch.equal(low, nn.Dropout(0.5)(torch.ones(1000, dtype=torch.bfloat16)))


def test_a_stock_module_draws_quickly_unless_something_is_hung_on_it():
    x = torch.ones(1000)
    dropout, calls = nn.Dropout(0.5), []
    torch.manual_seed(0)
    wanted = Dropout(0.5)(x)
    torch.manual_seed(0)
    assert torch.equal(drop_out(x, dropout), wanted)
    dropout.register_forward_hook(lambda *_: calls.append(1))
    drop_out(x, dropout)
    assert calls == [1]
