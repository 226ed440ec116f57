"""In which form the step of a user state reads the past of each convolution, and that nothing around it is missed."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.block_steps import step_of
from peterrec.encoders.user_state import UserState
from peterrec.tuners import PatchConfig

PLACES = ["serial_conv", "serial_block", "parallel_conv", "parallel_unit"]


def make(block="plain") -> NextItNet:
    torch.manual_seed(0)
    shape = NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2, 4, 1), block=block, initializer_range=0.4)
    return NextItNet(shape).double().eval()


def patched(placement, block="plain"):
    model = get_peft_model(make(block), PatchConfig(placement=placement, bottleneck=3))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.5)
    return model.double().eval().get_base_model()


def reads(encoder):
    return [tuple(ring.reads for ring in step_of(encoder, n).rings) for n in range(len(encoder.blocks))]


def check(encoder):
    """Each prefix of some histories, longer than the encoder reads."""
    ids = torch.randint(3, 53, (3, 22), generator=torch.Generator().manual_seed(2))
    state = UserState.empty(encoder, users=3)
    for stop in range(1, 23):
        state.append(ids[:, stop - 1])
        with torch.no_grad():
            whole = encoder(input_ids=ids[:, :stop]).last_hidden_state[:, -1]
        torch.testing.assert_close(state.vectors("last"), whole, rtol=1e-10, atol=1e-10, msg=f"after {stop}")


@pytest.mark.parametrize(
    ("placement", "block"),
    [(place, block) for place in PLACES for block in ("plain", "bottleneck")][:-1],  # the last one has no place
)
def test_a_patched_convolution_is_given_the_product_of_its_past(placement, block):
    encoder = patched(placement, block)
    assert set(sum(reads(encoder), ())) == {"product"}
    check(encoder)


def test_one_with_a_wrapped_linear_map_is_given_its_taps():
    config = LoraConfig(r=2, target_modules=["linear"], init_lora_weights=False)
    encoder = get_peft_model(make(), config).double().eval().get_base_model()
    assert set(sum(reads(encoder), ())) == {"taps"}
    check(encoder)


@pytest.mark.parametrize("placement", PLACES)
@pytest.mark.parametrize("inner", [False, True], ids=["on the patch", "on what it wraps"])
def test_a_hook_is_heard(placement, inner):
    encoder = patched(placement)
    unit = encoder.blocks[1].unit2
    layer = {"serial_block": getattr(unit, "activation", None), "parallel_unit": unit}.get(placement) or unit.conv
    hooked = layer.base_layer if inner else layer
    before = encoder(input_ids=torch.tensor([[5, 6]])).last_hidden_state
    hooked.register_forward_hook(lambda module, args, output: output.flip(-1))
    assert (encoder(input_ids=torch.tensor([[5, 6]])).last_hidden_state - before).abs().max() > 1e-3
    check(encoder)


def test_a_wrapper_of_another_kind_gets_the_window():
    class Twice(torch.nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.base_layer = conv

        def forward(self, x, domain_ids=None):
            return self.base_layer(x, domain_ids=domain_ids) * 2

    encoder = make()
    encoder.blocks[0].unit2.conv = Twice(encoder.blocks[0].unit2.conv)
    assert reads(encoder) == [("product", "window"), ("product", "product")]
    check(encoder)
