"""The last positions of a patched encoder: those of the whole encode, at the cost of what they read."""

import pytest
import torch
from peft import get_peft_model

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.dilated import DilatedConv, trailing
from peterrec.tuners import PatchConfig, PatchLayer
from peterrec.tuners.patch.placement import PLACEMENTS

WHERE = [(place, block) for place in PLACEMENTS for block in ("plain", "bottleneck")]
WHERE.remove(("parallel_unit", "bottleneck"))
LENGTH = 23


@pytest.fixture
def patched():
    """`patched(block, kernel_size, *configs)`: four convolutions in float64, an adapter a config, all weights random;
    the adapters are called 0, 1, …, and 0 is active."""

    def build(block, kernel_size, *configs):
        torch.manual_seed(3)
        shape = {"vocab_size": 53, "hidden_size": 8, "dilations": (1, 2, 3, 1), "kernel_size": kernel_size}
        model = get_peft_model(NextItNet(NextItNetConfig(**shape, block=block)), configs[0], adapter_name="0")
        for number, config in enumerate(configs[1:], 1):
            model.add_adapter(str(number), config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.4 * torch.randn_like(parameter))
        return model.double().eval()

    return build


@pytest.fixture
def ids():
    """Histories `(4, LENGTH)` that end together; the second is short."""
    ids = torch.randint(3, 53, (4, LENGTH), generator=torch.Generator().manual_seed(1))
    ids[1, :17] = 0
    return ids


def check(model, ids, **options):
    with torch.no_grad():
        whole = model(input_ids=ids, **options).last_hidden_state
        for positions in (1, 2, 6, LENGTH - 1, LENGTH + 2):
            last = model(input_ids=ids, positions=positions, **options).last_hidden_state
            torch.testing.assert_close(last, whole[:, -positions:], rtol=1e-10, atol=1e-10)
    return whole


def configs(placement, **options):
    """Two adapters of that placement, the published shortcut in one where it may be."""
    shortcut = placement.startswith("parallel")
    return (
        PatchConfig(placement=placement, bottleneck=3, **options),
        PatchConfig(placement=placement, bottleneck=2, shortcut=shortcut, activation="gelu", **options),
    )


@pytest.mark.parametrize("kernel_size", [2, 3, 5])
@pytest.mark.parametrize(("placement", "block"), WHERE)
def test_the_last_positions_are_those_of_all(patched, ids, placement, block, kernel_size):
    model = patched(block, kernel_size, *configs(placement, train_norms=True))
    found = [check(model, ids)]
    model.set_adapter("1")
    found.append(check(model, ids))
    model.base_model.set_adapter(["0", "1"])
    found.append(check(model, ids))
    with model.disable_adapter():
        found.append(check(model, ids))
    assert all((one - other).abs().max() > 1e-2 for n, one in enumerate(found) for other in found[:n])


@pytest.mark.parametrize(("placement", "block"), WHERE)
def test_those_of_a_mixed_batch_too(patched, ids, placement, block):
    model = patched(block, 3, *configs(placement))
    for names in (["1", "__base__", "0", "1"], ["0"] * 4, ["__base__"] * 4):
        whole = check(model, ids, adapter_names=names)
        for row, name in enumerate(names):
            model.set_adapter("0" if name == "__base__" else name)
            alone = model(input_ids=ids[row : row + 1], adapter_names=[name]).last_hidden_state
            valid = ids[row] != 0
            torch.testing.assert_close(whole[row, valid], alone[0, valid], rtol=1e-10, atol=1e-10)


def test_placements_together(patched, ids):
    places = ("serial_conv", "serial_block", "parallel_conv")
    model = patched("plain", 3, *(PatchConfig(placement=place, bottleneck=2) for place in places))
    model.base_model.set_adapter(["2", "0", "1"])
    check(model, ids)
    check(model, ids, adapter_names=["2", "0", "__base__", "1"])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_gradients_are_those_of_the_whole_encode(patched, ids, placement):
    found = []
    for positions in (None, 2):
        config = PatchConfig(placement=placement, bottleneck=3, activation="gelu", train_norms=True)  # none of it dead
        model = patched("plain", 3, config)
        model(input_ids=ids, positions=positions).last_hidden_state[:, -2:].square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize(("placement", "block"), WHERE)
def test_positions_that_nobody_reads_are_left_out(patched, ids, placement, block):
    model = patched(block, 3, *configs(placement))
    convolved, adapted = [], []
    for module in model.modules():
        if isinstance(module, DilatedConv):
            module.register_forward_hook(lambda module, args, output: convolved.append(output.shape[1]))
        if isinstance(module, PatchLayer):
            down = module.peterrec_patch_down["0"]
            down.register_forward_hook(lambda module, args, output: adapted.append(output.shape[1]))
    with torch.no_grad():
        model(input_ids=ids, positions=1)
    wanted = [13, 9, 3, 1]  # of the dilations 1, 2, 3, 1, each tap of three reads two of them further
    assert convolved == wanted
    assert adapted == (wanted[1::2] if (placement, block) == ("serial_block", "plain") else wanted)


def test_what_is_wrapped_by_others_is_cut_off_afterwards(patched):
    class Mixes(torch.nn.Module):
        """Reads all positions."""

        def __init__(self, conv):
            super().__init__()
            self.conv = conv

        def forward(self, x, domain_ids=None):
            return self.conv(x, domain_ids=domain_ids) + x.mean(1, keepdim=True)

    layer = patched("plain", 3, *configs("parallel_conv")).base_model.model.blocks[0].unit1.conv
    layer.base_layer = Mixes(layer.base_layer)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(trailing(layer, x, domain_ids=None, positions=2), layer(x)[:, -2:])
