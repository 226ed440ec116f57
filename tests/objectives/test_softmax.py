"""The fused softmax loss against numpy and against autograd."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from peterrec.objectives.softmax import exact_softmax_loss, extent


def data(rows=11, channels=5, vocabulary=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, channels, generator=generator, dtype=dtype, requires_grad=True)
    table = torch.randn(vocabulary, channels, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(3, vocabulary, (rows,), generator=generator)
    return hidden, table, targets


def test_the_loss_equals_its_definition():
    hidden, table, targets = data()
    logits = hidden.detach().numpy() @ table.detach().numpy()[3:].T
    wanted = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(11), targets.numpy() - 3])
    assert exact_softmax_loss(hidden, table, targets).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
@pytest.mark.parametrize("width", [1, 4, 6, 50, None])
def test_gradients_equal_autograd_in_chunks_and_blocks_of_any_size(chunk, width):
    hidden, table, targets = data()
    loss = exact_softmax_loss(hidden, table, targets, chunk=chunk, width=width)
    with torch.no_grad():
        assert torch.equal(loss, exact_softmax_loss(hidden, table, targets, chunk=chunk, width=width))
    (2.5 * loss).backward()
    found = hidden.grad.clone(), table.grad.clone()
    hidden.grad = table.grad = None
    (2.5 * F.cross_entropy(hidden @ table[3:].T, targets - 3)).backward()
    torch.testing.assert_close(found[0], hidden.grad, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(found[1], table.grad, atol=1e-8, rtol=1e-6)
    assert not found[1][:3].any(), "special rows are no candidates"


def test_a_frozen_table_gets_no_gradient():
    hidden, table, targets = data()
    table.requires_grad_(False)
    exact_softmax_loss(hidden, table, targets).backward()
    assert table.grad is None
    assert hidden.grad.abs().sum() > 0


def test_large_logits_do_not_overflow():
    hidden, table, targets = data(dtype=torch.float32)
    wanted = F.cross_entropy(hidden.double() * 1e4 @ table[3:].double().T, targets - 3)
    loss = exact_softmax_loss(hidden * 1e4, table, targets, width=2)
    loss.backward()
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)
    assert loss.isfinite()
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("width", [4, None])
def test_targets_among_the_special_rows_count_for_nothing(width):
    hidden, table, targets = data()
    wanted = exact_softmax_loss(hidden, table, targets)
    gradients = torch.autograd.grad(wanted, (hidden, table))
    more = torch.cat([torch.randn(2, 5, dtype=torch.float64), hidden.detach()]).requires_grad_()
    loss = exact_softmax_loss(more, table, torch.cat([torch.tensor([0, 2]), targets]), chunk=4, width=width)
    found = torch.autograd.grad(loss, (more, table))
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(found[0][2:], gradients[0])
    torch.testing.assert_close(found[1], gradients[1])
    assert not found[0][:2].any()


@pytest.mark.parametrize("classes", [50, 20_000])
@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_single_precision_keeps_five_digits(classes, scale):
    hidden, table, targets = data(rows=70, channels=16, vocabulary=classes, dtype=torch.float32)
    hidden = (hidden.detach() * scale).requires_grad_()
    loss = exact_softmax_loss(hidden, table, targets)
    found = torch.autograd.grad(loss, (hidden, table))
    precise = [t.detach().double().requires_grad_() for t in (hidden, table)]
    wanted = F.cross_entropy(precise[0] @ precise[1][3:].T, targets - 3)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)
    for gradient, other in zip(found, torch.autograd.grad(wanted, precise), strict=True):
        assert (gradient - other).norm() < 1e-5 * max(scale, 1) * other.norm()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_chunks_and_blocks_stay_within_what_is_stated(device):
    for classes in (1, 100, 3_700, 16_384, 16_385, 100_000, 1_000_000, 30_000_000):
        rows, width = extent(classes, device=device)
        assert rows >= 64
        assert 1 <= width <= classes
        assert rows * classes <= max(2**26, 64 * classes)
        if device == "cpu" and classes <= 1_000_000:
            assert rows * classes * 4 <= 2**28, "no more than a gigabyte's quarter"
    assert extent(3_700, device="cpu")[1] == 3_700, "a small catalogue is one block"


def test_no_rows_give_zero():
    hidden, table, _ = data()
    loss = exact_softmax_loss(hidden[:0], table, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0


class Sizes(TorchDispatchMode):
    """Notes the size of every tensor that an operation makes or writes."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_nothing_of_the_size_of_all_logits_is_made_or_kept():
    hidden, table, targets = data(rows=512, channels=4, vocabulary=1000, dtype=torch.float32)
    kept = []
    with Sizes() as sizes, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = exact_softmax_loss(hidden, table, targets, chunk=16)
        loss.backward()
    assert max(kept) <= max(hidden.numel(), table.numel())
    assert 16 * 900 < sizes.largest <= 16 * 1000
    with Sizes() as sizes, torch.no_grad():
        exact_softmax_loss(hidden, table, targets, chunk=16, width=300)
    assert sizes.largest <= max(16 * 300, table.numel())
    with Sizes() as sizes:
        F.cross_entropy(hidden @ table[3:].T, targets - 3)
    assert sizes.largest == 512 * 997, "the measure itself works"


def test_autocast_multiplies_in_bfloat16_and_stays_close():
    hidden, table, targets = data(dtype=torch.float32)
    exact = exact_softmax_loss(hidden, table, targets)
    wanted = torch.autograd.grad(exact, (hidden, table))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = exact_softmax_loss(hidden, table, targets, width=4)
    low.backward()
    for found, gradient in zip((hidden.grad, table.grad), wanted, strict=True):
        assert (found - gradient).norm() < 2e-2 * gradient.norm()
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(exact.item(), rel=2e-2)
    assert table.grad.dtype == torch.float32
