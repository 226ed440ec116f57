"""Training in bf16: autocast on the CPU stands in for CUDA's; products in bf16, norms, softmax and sums in float32."""

import pytest
import torch

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.objectives.softmax import exact_softmax_loss

ITEMS = 200


def bf16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def distance(one, other):
    """The difference as a share of `other`."""
    return ((one - other).norm() / other.norm()).item()


def encoder(block, fused, **changes):
    torch.manual_seed(0)
    shape = {"vocab_size": 3 + ITEMS, "hidden_size": 32, "dilations": (1, 2, 4, 8), "block": block}
    model = NextItNet(NextItNetConfig(initializer_range=0.1, **shape | changes)).train()
    for each in model.blocks:
        each.fused = fused
    return model


def loss_and_gradients(model, rows, targets):
    model.zero_grad()
    hidden = model(rows).last_hidden_state
    loss = exact_softmax_loss(hidden.transpose(0, 1).reshape(-1, hidden.shape[2]), model.score_table(), targets)
    assert loss.dtype == torch.float32
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
@pytest.mark.parametrize("causal", [True, False])
def test_a_step_in_bf16_is_close_to_one_in_float32(block, causal):
    """The fused blocks are hardly further off than the modules under autocast."""
    rows = torch.randint(3, 3 + ITEMS, (16, 20), generator=torch.Generator().manual_seed(1))
    rows[3, 5:] = 0
    rows[4, :7] = 0
    targets = rows.roll(-1, 1).t().reshape(-1)
    wanted, wanted_gradients = loss_and_gradients(encoder(block, False, causal=causal), rows, targets)
    off = {}
    for fused in (True, False):
        with bf16():
            loss, gradients = loss_and_gradients(encoder(block, fused, causal=causal), rows, targets)
        assert loss == pytest.approx(wanted, rel=2e-3)
        assert loss != wanted  # something was in bf16
        assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
        off[fused] = {name: distance(gradient, wanted_gradients[name]) for name, gradient in gradients.items()}
    for name, ours in off[True].items():
        assert ours < max(4 * off[False][name], 0.04), name  # its taps are rounded one by one
        assert ours < 0.3, name  # a norm's gradient sums up much that cancels


def test_fused_and_composed_blocks_agree_in_bf16():
    rows = torch.randint(3, 3 + ITEMS, (8, 20), generator=torch.Generator().manual_seed(1))
    for block in ("plain", "bottleneck"):
        fused, composed = (encoder(block, kind) for kind in (True, False))
        with bf16():
            ours, theirs = (model(rows).last_hidden_state for model in (fused, composed))
        with torch.no_grad():
            exact = composed(rows).last_hidden_state
        scale = exact.abs().max()
        assert (ours.float() - exact).abs().max() < 0.03 * scale
        assert (theirs.float() - exact).abs().max() < 0.03 * scale


def test_the_loss_is_summed_in_float32():
    """Sums of some thousand terms in bf16 would stop growing at 8 bits."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4000, 16, generator=generator)
    table = torch.randn(3 + ITEMS, 16, generator=generator) * 0.3
    targets = torch.randint(3, 3 + ITEMS, (4000,), generator=generator)
    low_hidden, low_table = hidden.bfloat16().float(), table.bfloat16().float()
    logits = (low_hidden @ low_table[3:].t()).double()
    wanted = torch.nn.functional.cross_entropy(logits, targets - 3).item()
    with bf16():
        loss = exact_softmax_loss(hidden, table, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted, rel=2e-3)
