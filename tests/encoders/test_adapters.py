"""Every adapter of the catalogue on every kind of encoder: starts as the encoder, trains, is saved; or says why not."""

import warnings
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from peterrec import catalogue
from peterrec.adaptation import adapt
from peterrec.data.vocabulary import TCL
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.loading import ENCODERS
from peterrec.errors import SettingsError
from peterrec.tuners import PatchConfig, PatchLayer, StarConfig
from peterrec.tuners.star.domain_layer import DomainLayer

SHAPES: dict[str, tuple[str, dict]] = {
    "nextitnet": ("nextitnet", {"dilations": (1, 2, 4, 8)}),
    "bottleneck": ("nextitnet", {"dilations": (1, 2), "block": "bottleneck"}),
    "two_sided": ("nextitnet", {"dilations": (1, 2, 4, 8), "causal": False}),
    "grec": ("grec", {"encoder_dilations": (1, 2, 1, 1), "decoder_dilations": (1, 2, 1, 1)}),
    "sasrec": ("sasrec", {"num_blocks": 2}),
    "dupn": ("dupn", {"num_blocks": 2}),
    "pooled": ("pooled", {}),
}
RECIPES = [name for name in catalogue.names("adapters") if catalogue.adapter(name).tuner not in ("none", "full")]
# (recipe, encoder) -> why it cannot be
REFUSED = {
    ("parallel_unit", "bottleneck"): "BottleneckBlock: their layers are not followed by a norm and a ReLU",
    ("parallel_unit", "sasrec"): "AttentionBlock: their layers are not followed by a norm and a ReLU",
    ("parallel_unit", "dupn"): "GatedLSTMBlock: their layers are not followed by a norm and a ReLU",
    ("parallel_published", "dupn"): "train_norms has no meaning in blocks of the kind GatedLSTMBlock",
    ("ln_tuning", "dupn"): "stands on norms, and the blocks of DUPN have none",
    **{
        (
            recipe,
            "pooled",
        ): rf"adapter {recipe}: \w+\.blocks: a PooledItems encoder has no blocks\. Take the adapter items"
        for recipe in RECIPES
        if recipe not in ("items", "items_convex", "tcl")
    },
}
NO_IDENTITY = ("parallel_published",)  # it adds its input once more, as the published code does


def make(shape: str) -> UserEncoder:
    """The same weights at every call, norms and biases away from their trivial start."""
    kind, own = SHAPES[shape]
    config, model = ENCODERS[kind]
    encoder = model(config(vocab_size=53, hidden_size=16, max_length=20, **own)).eval()  # type: ignore[call-arg]
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            centre = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
    return encoder


def histories() -> torch.Tensor:
    ids = torch.randint(3, 53, (4, 9), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = TCL
    ids[1, :4] = 0
    return ids


def readout(recipe: str) -> str:
    return "tcl" if catalogue.adapter(recipe).train_tcl else "mean"


def adapted(recipe: str, shape: str) -> PeftModel:
    torch.manual_seed(3)
    model = adapt(make(shape), catalogue.adapter(recipe), readout=readout(recipe))
    assert isinstance(model, PeftModel)
    return model.eval()


def states(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=histories()).last_hidden_state


def train(model: torch.nn.Module) -> list[float]:
    wanted = torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(11))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = (states(model) - wanted).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_it_starts_as_the_encoder_trains_alone_and_is_saved(recipe, shape, tmp_path):
    if (recipe, shape) in REFUSED:
        with pytest.raises(SettingsError, match=REFUSED[recipe, shape]):
            adapted(recipe, shape)
        return
    frozen, model = states(make(shape)), adapted(recipe, shape)
    same = torch.allclose(states(model), frozen, rtol=1e-4, atol=1e-4)
    assert same != (recipe in NO_IDENTITY)
    kept = {name: deepcopy(p.detach()) for name, p in model.named_parameters() if not p.requires_grad}
    assert kept
    losses = train(model)
    assert losses[-1] < losses[0]
    for name, parameter in model.named_parameters():
        if name in kept:
            assert torch.equal(parameter, kept[name]), name
    wanted = states(model)
    assert not torch.allclose(wanted, frozen, rtol=1e-3, atol=1e-3)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type '.*' encountered, proceed at your own risk")
        again = PeftModel.from_pretrained(make(shape), tmp_path, is_trainable=True).eval()  # type: ignore[arg-type]
    torch.testing.assert_close(states(again), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("recipe", "trained"), [("none", set()), ("full", {"embed_tokens.weight"})])
def test_the_whole_encoder_and_nothing_of_it_can_be_trained_without_blocks(recipe, trained):
    torch.manual_seed(3)
    model = adapt(make("pooled"), catalogue.adapter(recipe), readout="mean")
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
    assert torch.equal(states(model), states(make("pooled")))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "pooled"])
def test_star_goes_on_every_linear_map_of_the_blocks_and_on_no_other(shape):
    wanted = {f"blocks.{name}" for name, m in make(shape).blocks.named_modules() if isinstance(m, nn.Linear)}
    model = adapted("star", shape).base_model.model
    assert {name for name, module in model.named_modules() if isinstance(module, DomainLayer)} == wanted


@pytest.mark.parametrize("shape", ["sasrec", "dupn"])
@pytest.mark.parametrize("recipe", ["serial", "serial_block", "parallel", "lora", "star", "ia3"])
def test_padding_stays_exact_and_the_future_unseen(recipe, shape):
    model = adapted(recipe, shape)
    train(model)
    ids = histories()
    wanted = model(input_ids=ids).last_hidden_state
    for sides in ((0, 3), (3, 0)):
        found = model(input_ids=F.pad(ids, sides)).last_hidden_state[:, sides[0] : sides[0] + 9]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    changed = ids.clone()
    changed[:, 6] = 3 + (ids[:, 6] - 2) % 50
    after = model(input_ids=changed).last_hidden_state
    torch.testing.assert_close(after[:, :6], wanted[:, :6], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after[:, 6:], wanted[:, 6:], atol=1e-2)


PLACES = {
    ("serial_conv", "sasrec"): ["unit1.attention.output", "unit2.feed_forward.down"],
    ("serial_block", "sasrec"): ["unit2.feed_forward.down"],
    ("parallel_conv", "sasrec"): ["unit1.attention", "unit2.feed_forward"],
    ("serial_conv", "dupn"): ["lstm"],
    ("serial_block", "dupn"): ["lstm"],
    ("parallel_conv", "dupn"): ["lstm"],
}


@pytest.mark.parametrize(("placement", "shape"), PLACES)
def test_patches_stand_where_their_papers_have_them(placement, shape):
    config = PatchConfig(placement=placement, bottleneck=3, train_norms=shape == "sasrec")
    model = get_peft_model(make(shape), config).eval()
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, PatchLayer)}
    at = "base_model.model.blocks"
    assert sorted(layers) == [f"{at}.{number}.{name}" for number in range(2) for name in PLACES[placement, shape]]
    x = torch.randn(2, 5, 16)
    for layer in layers.values():
        weights = {
            name.split("peterrec_patch_")[-1]: p for name, p in layer.named_parameters() if "peterrec_patch" in name
        }
        given = torch.randn(2, 5, 64) if getattr(layer.base_layer, "in_features", 16) == 64 else x
        y = layer.base_layer(given)
        source = given if placement.startswith("parallel") else y
        inner = (source @ weights["down.default.weight"].T + weights["down.default.bias"]).relu()
        wanted = y + inner @ weights["up.default.weight"].T + weights["up.default.bias"]
        torch.testing.assert_close(layer(given), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", ["sasrec", "dupn"])
@pytest.mark.parametrize("form", ["full", "low_rank", "per_channel"])
def test_each_user_is_encoded_with_the_weights_of_their_domain(shape, form):
    norms = shape == "sasrec"
    model = get_peft_model(make(shape), StarConfig(num_domains=3, form=form, rank=2, norms=norms)).eval()
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    ids, domains = histories(), torch.tensor([2, 0, -1, 1])
    together = model(input_ids=ids, domain_ids=domains).last_hidden_state
    frozen = states(make(shape))
    torch.testing.assert_close(together[2], frozen[2], rtol=1e-4, atol=1e-4)
    for row in (0, 1, 3):
        alone = model(input_ids=ids[row : row + 1], domain_ids=domains[row : row + 1]).last_hidden_state
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)
        other = model(input_ids=ids[row : row + 1], domain_ids=(domains[row : row + 1] + 1) % 3).last_hidden_state
        assert not torch.allclose(alone, other, atol=1e-2)


def test_properties_of_events_pass_through_an_adapter():
    config, model = ENCODERS["dupn"]
    torch.manual_seed(0)
    encoder = model(config(vocab_size=53, hidden_size=16, num_properties=4, initializer_range=0.5)).eval()  # type: ignore[call-arg]
    ids, kinds = histories(), torch.randint(0, 5, (4, 9))
    wanted = encoder(ids, property_ids=kinds).last_hidden_state
    for tuner in (PatchConfig(bottleneck=2), LoraConfig(r=2, target_modules=["lstm.property", "lstm.recurrent"])):
        found = get_peft_model(deepcopy(encoder), tuner).eval()
        torch.testing.assert_close(found(input_ids=ids, property_ids=kinds).last_hidden_state, wanted)
        assert not torch.allclose(found(input_ids=ids).last_hidden_state, wanted, atol=1e-3)
