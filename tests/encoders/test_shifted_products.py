"""A convolution as products of slices: against gathered taps, in outputs, gradients and in what is read."""

import copy

import pytest
import torch
from torch import Tensor

from peterrec.encoders.dilated import DilatedConv
from peterrec.encoders.shifted_products import product, taps_of


def make(*, taps: int, dilation: int, causal: bool) -> tuple[DilatedConv, DilatedConv]:
    """A convolution, and the same one that gathers its taps because something is hung on its linear map."""
    torch.manual_seed(0)
    conv = DilatedConv(4, 6, kernel_size=taps, dilation=dilation, causal=causal).double()
    gathering = copy.deepcopy(conv)
    gathering.linear.register_forward_hook(lambda *_: None)
    return conv, gathering


def run(conv: DilatedConv, x: Tensor, positions: int | None) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = conv(x, positions=positions)
    return [out, *torch.autograd.grad(out.sin().sum(), [x, *conv.parameters()])]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (2, 3), (3, 1), (3, 8), (4, 2), (5, 3)])
def test_it_equals_the_gathered_taps(causal, taps, dilation):
    if not causal and taps % 2 == 0:
        pytest.skip("a two-sided kernel is odd")
    conv, gathering = make(taps=taps, dilation=dilation, causal=causal)
    for length in (1, 2, 7, 20):
        x = torch.randn(length, 3, 4, dtype=torch.float64).transpose(0, 1)
        for positions in (None, 1, 3, 50) if causal else (None,):
            for found, wanted in zip(run(conv, x, positions), run(gathering, x, positions), strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
def test_each_tap_reads_what_the_definition_says(causal):
    for taps in (1, 3, 5):
        for dilation in (1, 2, 4):
            for length in range(1, 12):
                for positions in range(1, length + 1) if causal else (length,):
                    found = taps_of(
                        kernel_size=taps, dilation=dilation, causal=causal, length=length, positions=positions
                    )
                    pairs = {
                        (tap.number, tap.first + place, tap.start + place)
                        for tap in found.own
                        for place in range(tap.positions)
                    }
                    center = taps - 1 if causal else taps // 2
                    wanted = {
                        (number, out, out + length - positions + (number - center) * dilation)
                        for number in range(taps)
                        for out in range(positions)
                        if 0 <= out + length - positions + (number - center) * dilation < length
                    }
                    assert pairs == wanted
                    assert found.own[0].positions == positions, "the first one reaches every output"


def test_a_frozen_convolution_keeps_its_weight_alone():
    conv, _ = make(taps=3, dilation=2, causal=True)
    conv.requires_grad_(False)
    x = torch.randn(9, 3, 4, dtype=torch.float64, requires_grad=True).transpose(0, 1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        conv(x)
    assert kept == [conv.linear.weight.shape]
    conv.requires_grad_(True)
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        conv(x.detach())
    assert kept == [(27, 4)], "and where only the weights train, their input alone"


def test_no_product_copies_its_operands():
    conv, _ = make(taps=3, dilation=1, causal=True)
    x, taps = torch.randn(15, 4, dtype=torch.float64), conv.shifts(5)
    with torch.profiler.profile() as profile, torch.no_grad():
        product(x, conv.linear.weight, conv.linear.bias, taps)
    names = [event.name for event in profile.events()]
    assert names.count("aten::copy_") == 1, "the bias, into the first product's result"
    assert not {"aten::cat", "aten::clone", "aten::contiguous", "aten::pad"} & set(names)


def test_a_second_derivative_is_refused():
    conv, _ = make(taps=3, dilation=2, causal=True)
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_under_autocast_the_products_are_low_and_the_gradients_are_not():
    conv = DilatedConv(4, 6, kernel_size=3, dilation=2, causal=True)
    x = torch.randn(9, 3, 4).transpose(0, 1).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), conv(x), atol=0.05, rtol=0.05)
    out.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == conv.linear.weight.grad.dtype == conv.linear.bias.grad.dtype == torch.float32
