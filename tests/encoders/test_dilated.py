"""Dilated convolutions and blocks against plain numpy loops and against `torch.nn.functional.conv1d`."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from peterrec.encoders.dilated import (
    BLOCKS,
    DilatedConv,
    PlainBlock,
    TimeMajorEmbedding,
    TimeMajorLayerNorm,
    TimeMajorLinear,
    trailing,
)


def slow_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, taps: int, dilation: int, causal: bool):
    """The definition: y[t] = b + sum_j W_j x[t - offset_j], one position and one tap at a time."""
    batch, length, channels = x.shape
    y = np.tile(bias, (batch, length, 1))
    for t in range(length):
        for j in range(taps):
            offset = (taps - 1 - j) * dilation if causal else ((taps - 1) // 2 - j) * dilation
            if 0 <= t - offset < length:
                y[:, t] += x[:, t - offset] @ weight[:, j * channels : (j + 1) * channels].T
    return y


def layer_norm(x: np.ndarray, eps: float) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("taps", "dilation", "length"), [(3, 1, 7), (3, 4, 5), (3, 2, 9), (5, 3, 11), (3, 8, 1)])
def test_convolution_equals_its_definition(causal, taps, dilation, length):
    conv = DilatedConv(4, 6, kernel_size=taps, dilation=dilation, causal=causal).double()
    x = torch.randn(3, length, 4, dtype=torch.float64)
    wanted = slow_conv(
        x.numpy(),
        conv.linear.weight.detach().numpy(),
        conv.linear.bias.detach().numpy(),
        taps=taps,
        dilation=dilation,
        causal=causal,
    )
    np.testing.assert_allclose(conv(x).detach().numpy(), wanted, atol=1e-12)


def test_convolution_and_its_gradients_equal_conv1d():
    conv = DilatedConv(4, 4, kernel_size=3, dilation=2, causal=True).double()
    x = torch.randn(2, 10, 4, dtype=torch.float64, requires_grad=True)
    kernel = conv.linear.weight.detach().reshape(4, 3, 4).permute(0, 2, 1).clone().requires_grad_()
    other = x.detach().clone().requires_grad_()
    wanted = F.conv1d(F.pad(other.transpose(1, 2), (4, 0)), kernel, conv.linear.bias.detach(), dilation=2)
    found = conv(x)
    torch.testing.assert_close(found, wanted.transpose(1, 2))
    slope = torch.randn_like(found)
    found.backward(slope)
    wanted.backward(slope.transpose(1, 2))
    torch.testing.assert_close(x.grad, other.grad)
    torch.testing.assert_close(conv.linear.weight.grad.reshape(4, 3, 4).permute(0, 2, 1), kernel.grad)


def test_plain_block_equals_its_equation():
    block = PlainBlock(4, (1, 2), kernel_size=3, causal=True, eps=1e-5, dropout=0.0).double()
    x, mask = torch.randn(2, 6, 4, dtype=torch.float64), torch.ones(2, 6, 1, dtype=torch.float64)

    def unit(x, module, dilation):
        weight, bias = module.conv.linear.weight.detach().numpy(), module.conv.linear.bias.detach().numpy()
        y = layer_norm(slow_conv(x, weight, bias, taps=3, dilation=dilation, causal=True), 1e-5)
        return np.maximum(y, 0)

    wanted = x.numpy() + unit(unit(x.numpy(), block.unit1, 1), block.unit2, 2)
    np.testing.assert_allclose(block(x, mask).detach().numpy(), wanted, atol=1e-12)


def test_bottleneck_block_equals_its_equation():
    block = BLOCKS["bottleneck"](4, (2,), kernel_size=3, causal=True, eps=1e-5, dropout=0.0).double()
    x, mask = torch.randn(2, 6, 4, dtype=torch.float64), torch.ones(2, 6, 1, dtype=torch.float64)

    def weights(linear):
        return linear.weight.detach().numpy(), linear.bias.detach().numpy()

    def pre(x):
        return np.maximum(layer_norm(x, 1e-5), 0)

    weight, bias = weights(block.unit1.linear)
    y = pre(x.numpy()) @ weight.T + bias
    weight, bias = weights(block.unit2.conv.linear)
    y = slow_conv(pre(y), weight, bias, taps=3, dilation=2, causal=True)
    weight, bias = weights(block.unit3.linear)
    wanted = x.numpy() + pre(y) @ weight.T + bias
    np.testing.assert_allclose(block(x, mask).detach().numpy(), wanted, atol=1e-12)


def test_memory_stays_time_major_through_every_layer():
    x = TimeMajorEmbedding(10, 4)(torch.randint(0, 10, (3, 5)))
    conv = DilatedConv(4, 4, kernel_size=3, dilation=2, causal=True)
    for layer in (TimeMajorLinear(4, 4), TimeMajorLayerNorm(4), conv, torch.nn.ReLU()):
        x = layer(x)
        assert x.shape == (3, 5, 4)
        assert x.transpose(0, 1).is_contiguous(), type(layer).__name__


def test_time_major_layers_equal_the_stock_ones():
    x = torch.randn(3, 5, 4)
    linear, norm = TimeMajorLinear(4, 2), TimeMajorLayerNorm(4)
    torch.testing.assert_close(linear(x), F.linear(x, linear.weight, linear.bias))
    torch.testing.assert_close(norm(x), F.layer_norm(x, (4,), norm.weight, norm.bias))


def test_two_sided_convolution_refuses_an_even_kernel():
    with pytest.raises(ValueError, match="odd kernel_size"):
        DilatedConv(4, 4, kernel_size=4, dilation=1, causal=False)


@pytest.mark.parametrize(("taps", "dilation", "length"), [(3, 1, 7), (3, 4, 5), (2, 3, 9), (3, 8, 1)])
def test_the_last_positions_of_a_convolution_are_those_of_all(taps, dilation, length):
    conv = DilatedConv(4, 6, kernel_size=taps, dilation=dilation, causal=True).double()
    x = torch.randn(3, length, 4, dtype=torch.float64)
    whole = conv(x)
    for positions in (1, 2, length, length + 3):
        found = conv(x, positions=positions)
        torch.testing.assert_close(found, whole[:, -positions:], atol=1e-12, rtol=0)
        if positions < length:  # what stands further back than the taps reach is not read
            cut = conv(x[:, -(positions + (taps - 1) * dilation) :], positions=positions)
            torch.testing.assert_close(cut, found, atol=1e-12, rtol=0)


def test_a_wrapped_layer_computes_all_positions_and_is_cut_off():
    conv = DilatedConv(4, 4, kernel_size=3, dilation=1, causal=True)

    class Beside(torch.nn.Module):
        """What a parallel tuner does: it adds the input."""

        def forward(self, x, domain_ids=None):
            return conv(x, domain_ids=domain_ids) + x

    x = torch.randn(2, 9, 4)
    found = trailing(Beside(), x, domain_ids=None, positions=2)
    torch.testing.assert_close(found, (conv(x) + x)[:, -2:])
