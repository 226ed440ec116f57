"""A block as one function against the modules that say what it computes: outputs, all gradients, what is kept."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from peterrec.encoders import NextItNet, NextItNetConfig, dilated
from peterrec.encoders.dilated import BLOCKS, BottleneckBlock, PlainBlock

Block = PlainBlock | BottleneckBlock
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def make(
    name: str = "plain",
    *,
    channels: int = 8,
    kernel_size: int = 3,
    dilations: Sequence[int] = (2, 5),
    causal: bool = True,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Block, Block]:
    """A block with random weights, and the same one that runs its modules."""
    torch.manual_seed(0)
    kind = BLOCKS[name]
    own = tuple(dilations[: kind.convolutions])
    block = kind(channels, own, kernel_size=kernel_size, causal=causal, eps=1e-5, dropout=dropout).to(dtype)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    modules = copy.deepcopy(block)
    modules.fused = False
    return block, modules


def padding(kind: str, users: int, length: int, dtype: torch.dtype) -> Tensor:
    mask = torch.ones(users, length, 1, dtype=dtype)
    half = length // 2
    span = {"left": slice(0, half), "right": slice(half, None), "middle": slice(half, half + 1), "user": slice(None)}
    mask[:1, span.get(kind, slice(0, 0))] = 0
    return mask


def states(users: int, length: int, channels: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    """Time-major memory, as the encoder hands it on."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(length, users, channels, dtype=dtype, generator=generator).transpose(0, 1)


def run(
    block: Block, x: Tensor, mask: Tensor | None = None, positions: int | None = None
) -> tuple[Tensor, list[Tensor | None]]:
    """The output, and the gradients of `x` and of every weight for a fixed slope that is zero at padding."""
    x = x.clone().requires_grad_()
    clean = x if mask is None else x * mask
    out = block(clean, mask, positions=positions)
    slope = states(*out.shape, out.dtype, seed=2)
    if mask is not None:
        slope = slope * mask[:, -out.shape[1] :]
    trained = [p for p in block.parameters() if p.requires_grad]
    return out, list(torch.autograd.grad(out, [x, *trained], slope, allow_unused=True))


def assert_same(found: tuple[Tensor, list], wanted: tuple[Tensor, list], dtype: torch.dtype) -> None:
    tolerance = TOLERANCE[dtype]
    for one, other in zip([found[0], *found[1]], [wanted[0], *wanted[1]], strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def _spy(inner: Callable[..., Tensor], found: list[str]) -> Callable[..., Tensor]:
    def spy(*args):
        found.append(inner.__name__)
        return inner(*args)

    return spy


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Which fused functions have run."""
    found: list[str] = []
    for name in ("fused_plain_block", "fused_bottleneck_block"):
        monkeypatch.setattr(dilated, name, _spy(getattr(dilated, name), found))
    return found


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kernel_size", [2, 3, 5])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_outputs_and_all_gradients_equal_those_of_the_modules(name, causal, kernel_size, dtype, calls):
    if not causal and kernel_size == 2:
        pytest.skip("a two-sided kernel is odd")
    block, modules = make(name, causal=causal, kernel_size=kernel_size, dtype=dtype)
    for length, users in ((1, 1), (2, 3), (7, 3), (30, 2)):
        x = states(users, length, 8, dtype)
        for kind in ("none", "left", "right", "middle", "user"):
            mask = None if kind == "none" else padding(kind, users, length, dtype)
            for positions in (None, 1, 4) if causal else (None,):
                calls.clear()
                found = run(block, x, mask, positions)
                assert len(calls) == 1
                wanted = run(modules, x, mask, positions)
                assert len(calls) == 1
                assert_same(found, wanted, dtype)
                with torch.no_grad():
                    quiet = block(x if mask is None else x * mask, mask, positions=positions)
                torch.testing.assert_close(quiet, wanted[0], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
                assert found[0].transpose(0, 1).is_contiguous(), "memory stays time-major"
                if mask is not None:
                    padded = mask.expand_as(x) == 0
                    assert not found[0][padded[:, -found[0].shape[1] :]].any()
                    assert not found[1][0][padded].any(), "no gradient reaches padding"


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_gradient_at_padding_ends_there(name, causal):
    block, modules = make(name, causal=causal)
    mask = padding("left", 3, 9, torch.float64)
    results = []
    for one in (block, modules):
        x = (states(3, 9, 8, torch.float64) * mask).requires_grad_()
        one.zero_grad()
        out = one(x, mask)
        out.backward(states(3, 9, 8, torch.float64, seed=2))  # not zero at padding
        assert x.grad is not None
        results.append([out, x.grad * mask, *(p.grad for p in one.parameters())])
        if one is block:
            assert not x.grad[mask.expand_as(x) == 0].any()
    assert_same((results[0][0], results[0][1:]), (results[1][0], results[1][1:]), torch.float64)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(("users", "length"), [(0, 5), (3, 0)])
def test_empty_batches_pass(name, users, length):
    block, modules = make(name)
    x = states(users, length, 8, torch.float64)
    assert_same(run(block, x), run(modules, x), torch.float64)


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_equal_finite_differences(name):
    block, _ = make(name, channels=2, dilations=(1, 2))
    x = states(2, 4, 2, torch.float64).requires_grad_()
    mask = padding("left", 2, 4, torch.float64)
    assert torch.autograd.gradcheck(lambda x: block(x * mask, mask), (x,))
    assert torch.autograd.gradcheck(lambda *_: block(x.detach() * mask, mask), tuple(block.parameters()))


@pytest.mark.parametrize("through", [True, False], ids=["x trains", "x stands"])
@pytest.mark.parametrize("name", BLOCKS)
def test_whatever_part_trains_its_gradients_are_the_same(name, through):
    block, modules = make(name)
    names = [key for key, _ in block.named_parameters()]
    x = states(3, 9, 8, torch.float64)
    for trained in [set(names[i : i + 1]) for i in range(len(names))] + [set(names[-3:]), set(names[:2])]:
        results = []
        for one in (block, modules):
            for key, parameter in one.named_parameters():
                parameter.requires_grad_(key in trained)
            inputs = x.clone().requires_grad_(through)
            one.zero_grad()
            one(inputs).square().sum().backward()
            results.append([inputs.grad, *(parameter.grad for parameter in one.parameters())])
        for found, wanted in zip(*results, strict=True):
            assert (found is None) == (wanted is None)
            if found is not None:
                torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-10)


def kept(block: Block, x: Tensor) -> set[int]:
    """The storages that a forward pass keeps, those of the weights left out."""
    found: set[int] = set()
    own = {p.untyped_storage().data_ptr() for p in block.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.numel() >= x.numel() // 2:
            found.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(x)
    assert out.requires_grad
    return found - own


@pytest.mark.parametrize(("name", "all_of_them", "frozen"), [("plain", 5, 4), ("bottleneck", 6, 6)])
def test_frozen_weights_keep_nothing_of_their_own(name, all_of_them, frozen):
    block, _ = make(name)
    x = states(16, 32, 8, torch.float64).requires_grad_()
    assert len(kept(block, x)) == all_of_them
    block.requires_grad_(False)
    found = kept(block, x)
    assert len(found) == frozen
    if name == "plain":
        assert x.untyped_storage().data_ptr() not in found
    x = x.detach()
    list(block.parameters())[-1].requires_grad_(True)
    assert len(kept(block, x)) == (2 if name == "plain" else 0), "the last shift needs what came out of its norm"


@pytest.mark.parametrize("name", BLOCKS)
def test_without_gradients_nothing_is_kept_and_the_input_is_not_written(name):
    block, modules = make(name)
    x = states(3, 9, 8, torch.float64)
    before = x.clone()
    with torch.no_grad():
        out = block(x)
    assert torch.equal(x, before)
    assert not out.requires_grad
    torch.testing.assert_close(out, modules(x), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_dropout_draws_what_the_modules_draw(name, dtype):
    block, modules = make(name, dropout=0.3, dtype=dtype)
    x, mask = states(5, 20, 8, dtype), padding("left", 5, 20, dtype)
    for positions in (None, 3):
        results = []
        for one in (block, modules):
            torch.manual_seed(7)
            results.append(run(one.train(), x, mask, positions))
        assert_same(results[0], results[1], dtype)
        dropped = (results[0][0] == (x * mask)[:, -results[0][0].shape[1] :]).double().mean()
        assert dropped > 0.2
    torch.manual_seed(7)
    assert torch.equal(run(block, x, mask, 3)[0], results[0][0]), "the generator decides"
    assert not torch.equal(run(block, x, mask, 3)[0], results[0][0])
    torch.testing.assert_close(block.eval()(x), modules.eval()(x))


@pytest.mark.parametrize("name", BLOCKS)
def test_dropout_keeps_the_expectation(name):
    block, _ = make(name, dropout=0.5)
    x = states(1, 6, 8, torch.float64)
    with torch.no_grad():
        wanted = block.eval()(x) - x
        many = x.expand(20000, -1, -1).transpose(0, 1).contiguous().transpose(0, 1)
        torch.manual_seed(0)
        found = (block.train()(many) - many).mean(0, keepdim=True)
    error = wanted.abs() / 20000**0.5  # of one with p = 0.5: its deviation is its size
    assert bool(((found - wanted).abs() <= 5 * error + 1e-12).all())


@pytest.mark.parametrize("name", BLOCKS)
def test_other_drawings_have_the_gradients_of_what_they_drew(name, monkeypatch):
    """As on a device: the stock dropout instead of the quick one."""
    for room in ("fused_plain", "fused_bottleneck"):
        monkeypatch.setattr(f"peterrec.encoders.{room}.draws_words", lambda *_: False)
    block, _ = make(name, channels=4, dilations=(1, 2), dropout=0.4)
    x = states(1, 4, 4, torch.float64).requires_grad_()

    def drawn(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return block(x)

    assert torch.autograd.gradcheck(drawn, (x,))
    assert torch.autograd.gradcheck(lambda *_: drawn(x.detach()), tuple(block.parameters()))
    alone = (drawn(x) - x).detach()
    whole = (block.eval()(x) - x).detach()
    on = alone != 0
    torch.testing.assert_close(alone[on], whole[on] / 0.6, atol=1e-10, rtol=1e-10)


WRAPS = {
    "forward hook": lambda module: module.register_forward_hook(lambda *_: None),
    "pre-hook": lambda module: module.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda module: module.register_full_backward_hook(lambda *_: None),
    "own forward": lambda module: setattr(module, "forward", module.forward),
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("name", BLOCKS)
def test_anything_hung_on_a_module_inside_brings_the_modules_back(name, wrap, calls):
    fresh, _ = make(name)
    x = states(2, 5, 8, torch.float64)
    wanted = fresh(x)
    assert len(calls) == 1
    for inside, module in fresh.named_modules():
        if not inside:
            continue
        block = copy.deepcopy(fresh)
        WRAPS[wrap](block.get_submodule(inside))
        calls.clear()
        torch.testing.assert_close(block(x), wanted, atol=1e-10, rtol=1e-10)
        assert not calls, (inside, type(module))


def test_a_parametrised_weight_and_a_module_of_another_class_bring_the_modules_back(calls):
    class Double(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    block, _ = make()
    x = states(2, 5, 8, torch.float64)
    before = block(x)
    torch.nn.utils.parametrize.register_parametrization(block.unit1.conv.linear, "weight", Double())
    assert not torch.allclose(block(x), before)
    assert len(calls) == 1
    block, _ = make()
    block.unit2.activation = nn.GELU()  # type: ignore[assignment]
    assert not torch.allclose(block(x), before)
    assert len(calls) == 1


@pytest.mark.parametrize("name", BLOCKS)
def test_a_second_derivative_is_refused(name):
    block, _ = make(name)
    x = states(2, 5, 8, torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize("name", BLOCKS)
def test_the_modules_may_be_differentiated_twice(name):
    _, modules = make(name)
    x = states(2, 5, 8, torch.float64).requires_grad_()
    direction = 1e-6 * states(2, 5, 8, torch.float64, seed=3)

    def slope(x: Tensor) -> Tensor:
        return torch.autograd.grad(modules(x).square().sum(), x, create_graph=True)[0]

    (found,) = torch.autograd.grad((slope(x) * direction).sum(), x)
    wanted = (slope(x + direction) - slope(x - direction)) / 2
    assert (found - wanted).norm() <= 1e-6 * wanted.norm()
    modules.fused = True
    assert all(m.fused for m in modules.modules() if isinstance(m, dilated.DilatedConv))


@pytest.mark.parametrize("name", BLOCKS)
def test_dropout_of_everything_leaves_the_input(name):
    block, modules = make(name, dropout=1.0)
    x = states(2, 5, 8, torch.float64)
    found, wanted = run(block.train(), x), run(modules.train(), x)
    assert torch.equal(found[0], x)
    assert_same(found, wanted, torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_norms_in_single_precision_leave_the_rest_in_half(name, training):
    for block in (pair := make(name, dtype=torch.float32, dropout=0.3)):
        block.train(training).to(torch.bfloat16)
        for module in block.modules():
            if isinstance(module, nn.LayerNorm):
                module.float()
    x, mask = states(4, 20, 8, torch.bfloat16), padding("left", 4, 20, torch.bfloat16)
    results = []
    for block in pair:
        torch.manual_seed(3)
        results.append(run(block, x, mask))
    with torch.no_grad():
        assert pair[0](x * mask, mask).dtype == torch.bfloat16
    for found, wanted in zip([results[0][0], *results[0][1]], [results[1][0], *results[1][1]], strict=True):
        assert found.dtype == wanted.dtype
        assert (found - wanted).norm() <= 0.05 * wanted.norm()
    assert results[0][0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", BLOCKS)
def test_hooks_on_all_modules_see_those_inside(name, calls):
    block, _ = make(name)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        block(states(2, 5, 8, torch.float64))
    finally:
        handle.remove()
    assert not calls
    assert {type(module) for module in seen} >= {dilated.TimeMajorLinear, dilated.TimeMajorLayerNorm, nn.ReLU}


@pytest.mark.parametrize("name", BLOCKS)
def test_under_autocast_it_is_as_close_as_the_modules_are(name):
    block, modules = make(name, dtype=torch.float32)
    x, mask = states(4, 20, 8, torch.float32), padding("left", 4, 20, torch.float32)
    exact = run(modules, x, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, wanted = run(block, x, mask), run(modules, x, mask)
    assert found[0].dtype == wanted[0].dtype == torch.float32
    for one, other, right in zip([found[0], *found[1]], [wanted[0], *wanted[1]], [exact[0], *exact[1]], strict=True):
        assert one.dtype == other.dtype
        size = right.norm()
        assert (one - right).norm() <= 2 * (other - right).norm() + 0.01 * size


@pytest.mark.parametrize("name", BLOCKS)
def test_low_precision_weights_pass(name):
    block, modules = make(name, dtype=torch.float32)
    x = states(4, 20, 8, torch.float32)
    exact = run(modules, x)
    found = run(block.to(torch.bfloat16), x.to(torch.bfloat16))
    for one, right in zip([found[0], *found[1]], [exact[0], *exact[1]], strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - right).norm() <= 0.05 * right.norm()


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
def test_activation_checkpointing_runs_each_block_again_and_changes_nothing(block, reentrant, calls):
    config = NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2, 4, 1), block=block, dropout=0.3)
    torch.manual_seed(0)
    encoder = NextItNet(config).train()
    ids = torch.randint(3, 53, (4, 12))
    ids[0, :5] = 0
    results = []
    for checkpointed in (False, True):
        if checkpointed:
            encoder.activation_checkpointing_enable({"use_reentrant": reentrant})
        calls.clear()
        encoder.zero_grad()
        torch.manual_seed(5)
        encoder(ids).last_hidden_state.square().sum().backward()
        assert len(calls) == len(encoder.blocks) * (1 + checkpointed)
        results.append([p.grad for p in encoder.parameters()])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_two_runs_are_equal_to_the_bit():
    block, _ = make(dtype=torch.float32)
    x = states(64, 50, 8, torch.float32)
    first, second = run(block, x), run(block, x)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(one, other) for one, other in zip(first[1], second[1], strict=True))
