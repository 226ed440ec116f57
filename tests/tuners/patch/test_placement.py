"""Where patches go: each placement against an independent computation, identity, padding, causality, size."""

import math

import numpy as np
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.tuners import PatchConfig, PatchLayer
from peterrec.tuners.patch.placement import PLACEMENTS

WHERE = [(place, block) for place in PLACEMENTS for block in ("plain", "bottleneck")]
WHERE.remove(("parallel_unit", "bottleneck"))
PARALLEL = [(place, block) for place, block in WHERE if place.startswith("parallel")]
EPS = 1e-5


class Reference:
    """The patched encoder once more, position by position in numpy, from the adapter's file and the encoder's."""

    def __init__(self, weights, adapter, *, block, causal, config):
        self.weights = {name: value.double().numpy() for name, value in weights.items()}
        self.adapter = {
            name.removeprefix("base_model.model.").replace("base_layer.", ""): value.double().numpy()
            for name, value in adapter.items()
        }
        self.block, self.causal, self.config = block, causal, config

    def norm(self, name, x):
        own = f"{name}.peterrec_patch_norm.weight"
        assert (own in self.adapter) == self.config.train_norms
        weight = self.adapter.get(own, self.weights[f"{name}.weight"])
        bias = self.adapter.get(f"{name}.peterrec_patch_norm.bias", self.weights[f"{name}.bias"])
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS) * weight + bias

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def conv(self, name, x, dilation):
        weight = self.weights[f"{name}.linear.weight"]
        width = weight.shape[1] // 3
        out = np.zeros((*x.shape[:2], weight.shape[0])) + self.weights[f"{name}.linear.bias"]
        for t in range(x.shape[1]):
            for tap in range(3):
                source = t + (tap - 2 if self.causal else tap - 1) * dilation
                if 0 <= source < x.shape[1]:
                    out[:, t] += x[:, source] @ weight[:, tap * width : (tap + 1) * width].T
        return out

    def patch(self, name, x):
        down = f"{name}.peterrec_patch_down"
        up = f"{name}.peterrec_patch_up"
        inner = x @ self.adapter[f"{down}.weight"].T + self.adapter[f"{down}.bias"]
        if self.config.activation == "relu":
            inner = np.maximum(inner, 0)
        else:
            inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        out = inner @ self.adapter[f"{up}.weight"].T + self.adapter[f"{up}.bias"]
        return x + out if self.config.shortcut else out

    def patched_conv(self, name, x, dilation):
        y = self.conv(name, x, dilation)
        if self.config.placement == "serial_conv":
            return y + self.patch(name, y)
        return y + self.patch(name, x) if self.config.placement == "parallel_conv" else y

    def run(self, ids):
        ids = ids.numpy()
        mask = (ids != 0)[..., None]
        x = self.weights["embed_tokens.weight"][ids] * mask
        dilations = iter((1, 2, 4, 8))
        serial_block = self.config.placement == "serial_block"
        for number in range(2 if self.block == "plain" else 4):
            at = f"blocks.{number}"
            if self.block == "plain":
                y = x
                for unit in (f"{at}.unit1", f"{at}.unit2"):
                    source = y * mask
                    y = np.maximum(
                        self.norm(f"{unit}.norm", self.patched_conv(f"{unit}.conv", source, next(dilations))), 0
                    )
                    if self.config.placement == "parallel_unit":
                        y = y + self.patch(unit, source)
                if serial_block:
                    y = y + self.patch(f"{at}.unit2.activation", y)
            else:
                y = self.linear(f"{at}.unit1.linear", np.maximum(self.norm(f"{at}.unit1.norm", x), 0))
                y = np.maximum(self.norm(f"{at}.unit2.norm", y), 0) * mask
                y = self.patched_conv(f"{at}.unit2.conv", y, next(dilations))
                y = self.linear(f"{at}.unit3.linear", np.maximum(self.norm(f"{at}.unit3.norm", y), 0))
                if serial_block:
                    y = y + self.patch(f"{at}.unit3.linear", y)
            x = x + y
        return x * mask


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "two-sided"])
@pytest.mark.parametrize(
    ("placement", "block", "settings"),
    [(*where, settings) for where in WHERE for settings in ({}, {"train_norms": True, "activation": "gelu"})]
    + [(*where, {"shortcut": True}) for where in PARALLEL],
)
def test_the_patched_encoder_is_its_equation(make, patch, ids, tmp_path, placement, block, settings, causal):
    model = patch(block, causal=causal, placement=placement, **settings)
    model.save_pretrained(str(tmp_path))
    reference = Reference(
        make(block, causal=causal).state_dict(),
        load_file(tmp_path / "first" / "adapter_model.safetensors"),
        block=block,
        causal=causal,
        config=model.peft_config["first"],
    )
    wanted = torch.from_numpy(reference.run(ids))
    with torch.no_grad():
        torch.testing.assert_close(model.double()(ids).last_hidden_state, wanted, rtol=1e-9, atol=1e-9)
        frozen = make(block, causal=causal)(ids).last_hidden_state.double()
    assert not torch.allclose(wanted, frozen, atol=1e-2)


@pytest.mark.parametrize("train_norms", [False, True])
@pytest.mark.parametrize(("placement", "block"), WHERE)
def test_it_starts_as_the_frozen_encoder_exactly(make, ids, placement, block, train_norms):
    frozen = make(block)(ids).last_hidden_state
    config = PatchConfig(placement=placement, bottleneck=2, train_norms=train_norms)
    model = get_peft_model(make(block), config).eval()
    assert torch.equal(model(ids).last_hidden_state, frozen)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(ids).user_vector.sum().backward()
    optimiser.step()
    assert not torch.equal(model(ids).last_hidden_state, frozen), "and learns from the first step"


@pytest.mark.parametrize(("placement", "block"), PARALLEL)
def test_the_published_shortcut_does_not_start_as_the_frozen_encoder(make, ids, placement, block):
    model = get_peft_model(make(block), PatchConfig(placement=placement, bottleneck=2, shortcut=True)).eval()
    layer = next(m for m in model.modules() if isinstance(m, PatchLayer))
    x = torch.randn(2, 5, layer.channels)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x)
    assert not torch.allclose(model(ids).last_hidden_state, make(block)(ids).last_hidden_state, atol=1e-2)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "two-sided"])
@pytest.mark.parametrize(("placement", "block"), WHERE)
def test_padding_makes_no_difference(patch, ids, placement, block, causal):
    model = patch(block, causal=causal, placement=placement, train_norms=True)
    bare = model(ids).last_hidden_state
    nothing = torch.zeros(4, 3, dtype=torch.long)
    behind = model(torch.cat([ids, nothing], 1)).last_hidden_state
    torch.testing.assert_close(behind[:, :9], bare, rtol=1e-5, atol=1e-5)
    assert not behind[:, 9:].any()
    before = model(torch.cat([nothing, ids], 1)).last_hidden_state
    torch.testing.assert_close(before[:, 3:], bare, rtol=1e-5, atol=1e-5)
    short = model(ids[2:3, :5]).last_hidden_state
    torch.testing.assert_close(bare[2:3, :5], short, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(ids).user_vector[2:3], model(ids[2:3, :5]).user_vector, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "two-sided"])
@pytest.mark.parametrize(("placement", "block"), WHERE)
def test_a_causal_encoder_stays_causal(patch, ids, placement, block, causal):
    model = patch(block, causal=causal, placement=placement)
    changed = ids.clone()
    changed[:, 4] = 3 + (ids[:, 4] + 1) % 50
    same = model(ids).last_hidden_state[[0, 1, 3], :4], model(changed).last_hidden_state[[0, 1, 3], :4]
    assert torch.allclose(*same, rtol=1e-5, atol=1e-6) == causal


@pytest.mark.parametrize(("placement", "block"), WHERE)
def test_patches_stand_where_the_figure_has_them(patch, placement, block):
    model = patch(block, placement=placement)
    places = sorted(
        name.removeprefix("base_model.model.blocks.")
        for name, module in model.named_modules()
        if isinstance(module, PatchLayer)
    )
    each = {
        ("serial_conv", "plain"): ["unit1.conv", "unit2.conv"],
        ("parallel_conv", "plain"): ["unit1.conv", "unit2.conv"],
        ("serial_block", "plain"): ["unit2.activation"],
        ("parallel_unit", "plain"): ["unit1", "unit2"],
        ("serial_conv", "bottleneck"): ["unit2.conv"],
        ("parallel_conv", "bottleneck"): ["unit2.conv"],
        ("serial_block", "bottleneck"): ["unit3.linear"],
    }[placement, block]
    assert places == [f"{number}.{name}" for number in range(2 if block == "plain" else 4) for name in each]


@pytest.mark.parametrize("train_norms", [False, True])
@pytest.mark.parametrize(("placement", "block"), WHERE)
def test_only_the_chosen_blocks_are_patched(patch, placement, block, train_norms):
    model = patch(block, placement=placement, layers_to_transform=[1], train_norms=train_norms)
    own = [name for name, p in model.named_parameters() if p.requires_grad]
    assert own
    assert all(".blocks.1." in name for name in own)
    assert any("peterrec_patch_norm" in name for name in own) == train_norms


def test_a_unit_patch_has_no_place_on_bottleneck_blocks(make):
    encoder = make("bottleneck")
    before = [type(module) for module in encoder.modules()]
    with pytest.raises(ValueError, match=r"parallel_unit has no meaning .* Take parallel_conv"):
        get_peft_model(encoder, PatchConfig(placement="parallel_unit"))
    assert [type(module) for module in encoder.modules()] == before


@pytest.mark.parametrize(
    ("placement", "target", "message"),
    [
        ("serial_conv", "norm", "on a dilated convolution, but blocks.0.unit1.norm is TimeMajorLayerNorm"),
        ("parallel_conv", "unit1", "on a dilated convolution, but blocks.0.unit1 is Unit"),
        ("serial_block", "unit1.activation", "output of a block's last unit, but blocks.0.unit1.activation"),
        ("parallel_unit", "conv", "on a unit"),
    ],
)
def test_other_modules_are_refused(make, placement, target, message):
    with pytest.raises(ValueError, match=message):
        get_peft_model(make(), PatchConfig(placement=placement, bottleneck=2, target_modules=[target]))


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match="Linear has none"):
        get_peft_model(torch.nn.Linear(3, 3), PatchConfig())


def test_a_part_of_the_places_can_be_chosen(patch):
    model = patch(placement="serial_conv", target_modules=["unit1.conv"], train_norms=True, layers_to_transform=0)
    names = {name.split(".peterrec")[0] for name, p in model.named_parameters() if p.requires_grad}
    at = "base_model.model.blocks.0"
    assert names == {f"{at}.unit1.conv", f"{at}.unit1.norm", f"{at}.unit2.norm"}


def test_an_eighth_of_the_width_has_a_twelfth_of_a_convolutions_weights():
    encoder = NextItNet(NextItNetConfig(vocab_size=10, hidden_size=64, dilations=(1, 2)))
    for placement in ("serial_conv", "parallel_conv"):
        model = get_peft_model(encoder, PatchConfig(placement=placement, bottleneck=64 // 8))
        layer = next(m for m in model.modules() if isinstance(m, PatchLayer))
        own = sum(p.numel() for name, p in layer.named_parameters() if "patch" in name and name.endswith("weight"))
        assert own / layer.base_layer.linear.weight.numel() == pytest.approx(0.0833, abs=5e-5)
        model.unload()
