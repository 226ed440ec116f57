"""Clearing padded rows, and when nothing needs to be cleared."""

from itertools import product

import pytest
import torch
from torch import nn

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.padding import Padding, PaddingLast, stands_on_the_right


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("positions", [None, 7])
def test_exactly_the_padded_rows_are_cleared(share, positions):
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(6, 40, 1, generator=generator) >= share).float()
    states = torch.randn(6, 40 if positions is None else positions, 3, generator=generator)
    flat = states.transpose(0, 1).reshape(-1, 3).clone()
    found = Padding(mask, positions=positions).clear_(flat)
    assert found is flat
    wanted = states * mask[:, -states.shape[1] :]
    assert torch.equal(found.view(-1, 6, 3).transpose(0, 1), wanted)


def test_padding_on_the_right_is_told_from_any_other():
    for bits in product([True, False], repeat=5):
        wanted = not any(not bits[i] and any(bits[i:]) for i in range(5))
        assert stands_on_the_right(torch.tensor([[True] * 5, bits])) == wanted
    assert stands_on_the_right(torch.ones(3, 0, dtype=torch.bool))


@pytest.mark.parametrize("keep", [None, 4])
def test_padding_is_moved_behind_what_is_valid_and_back(keep):
    patterns = [bits for bits in product([True, False], repeat=5) if keep is None or sum(bits) <= keep]
    valid = torch.tensor(patterns)
    for shape in ((), (3,)):
        rows = torch.randn(*valid.shape, *shape, requires_grad=True)
        moving = PaddingLast(valid, keep=keep)
        moved = moving.move(rows)
        assert moved.shape[1] == (5 if keep is None else 4)
        for row, bits in enumerate(patterns):
            assert torch.equal(moved[row, : sum(bits)], rows[row, valid[row]])
        again = moving.back(moved)
        assert again.shape == rows.shape
        assert torch.equal(again[valid], rows[valid])
        again[valid].sum().backward()
        assert torch.equal(rows.grad != 0, valid.view(*valid.shape, *[1] * len(shape)).expand_as(rows))


def encoder(**changes) -> NextItNet:
    torch.manual_seed(0)
    settings = {"vocab_size": 53, "hidden_size": 8, "dilations": (1, 2, 4, 1), "initializer_range": 0.5}
    return NextItNet(NextItNetConfig(**{**settings, **changes})).double()


def padded(kind: str) -> torch.Tensor:
    ids = torch.randint(3, 53, (4, 12), generator=torch.Generator().manual_seed(1))
    places = {
        "left": (0, slice(0, 5)),
        "right": (1, slice(6, None)),
        "middle": (2, slice(4, 6)),
        "user": (3, slice(None)),
    }
    for one in kind.split("+"):
        if one in places:
            ids[places[one]] = 0
    return ids


@pytest.mark.parametrize(
    ("causal", "kind", "masked"),
    [
        (True, "none", False),
        (True, "right", False),
        (True, "right+user", False),
        (True, "left", True),
        (True, "middle", True),
        (False, "none", False),
        (False, "right", True),
        (False, "user", True),
    ],
)
def test_blocks_are_given_a_mask_only_where_a_valid_position_could_read_padding(causal, kind, masked):
    model, seen = encoder(causal=causal), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[1] is not None))
    model(padded(kind))
    assert seen == [masked] * 2


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["none", "left", "right", "middle", "user", "left+right+middle+user"])
def test_the_encoder_equals_its_modules_run_with_every_mask(monkeypatch, kind, causal, block):
    """The reference looks at no values, as on a device, and runs the modules: a mask is multiplied everywhere."""
    ids, results = padded(kind), []
    for reference in (False, True):
        if reference:
            monkeypatch.setattr("peterrec.encoders.base.is_readable", lambda _: False)
        model = encoder(block=block, causal=causal)
        for one in model.blocks:
            one.fused = not reference
        out = model(ids, output_hidden_states=True)
        slope = torch.randn(out.last_hidden_state.shape, generator=torch.Generator().manual_seed(2)).double()
        (out.last_hidden_state * slope).sum().backward()
        results.append([*out.hidden_states, out.user_vector, *(p.grad for p in model.parameters())])
        assert all(not state[ids == 0].any() for state in out.hidden_states)
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["left", "right", "middle", "user"])
def test_no_gradient_reaches_an_embedding_at_padding(kind, causal):
    model, ids = encoder(causal=causal), padded(kind)
    vectors = torch.randn(4, 12, 8, dtype=torch.float64, requires_grad=True)
    model(inputs_embeds=vectors, attention_mask=ids.ne(0)).last_hidden_state.sin().sum().backward()
    assert vectors.grad is not None
    assert not vectors.grad[ids == 0].any()
    assert vectors.grad[ids != 0].any()


def test_a_block_of_another_kind_gets_and_leaves_cleared_states():
    """A wrapper around a block may put anything into padded places."""

    class Dirty(nn.Module):
        def __init__(self, block: nn.Module):
            super().__init__()
            self.block = block

        def forward(self, x, mask=None, domain_ids=None):
            assert not x[~valid].any()
            return self.block(x, mask, domain_ids=domain_ids) + 1.0 * ~valid.unsqueeze(-1)

    ids = padded("left+middle")
    valid = ids != 0
    wanted = encoder()(ids).last_hidden_state
    model = encoder()
    model.blocks[0] = Dirty(model.blocks[0])
    torch.testing.assert_close(model(ids).last_hidden_state, wanted, atol=1e-12, rtol=1e-10)
