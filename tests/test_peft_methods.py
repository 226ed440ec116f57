"""The methods of peft that a recipe may name: identity at the start, training, their files; options have effects."""

import itertools
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from peterrec.adaptation import adapt
from peterrec.adapter_file import adapter_weights, save_adapter
from peterrec.adapter_recipe import AdapterRecipe
from peterrec.adapter_weights import fill, read_weights
from peterrec.data.vocabulary import TCL
from peterrec.encoders.nextitnet import NextItNet
from peterrec.encoders.nextitnet_config import NextItNetConfig
from peterrec.peft_methods import PEFT_METHODS, places
from peterrec.settings import validate

D, V = 16, 40
# sizes for an encoder this small, where peft's own defaults are meant for language models
SMALL = {
    "c3a": {"block_size": 8},
    "deft": {"r": 4},
    "delora": {"r": 4},
    "fourierft": {"n_frequency": 20},
    "gralora": {"r": 4, "alpha": 8},
    "hira": {"r": 4},
    "hra": {"r": 4},
    "lily": {"r": 4},
    "lora": {"r": 4, "lora_alpha": 8},
    "loha": {"r": 4},
    "lokr": {"r": 2},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 8},
    "peanut": {"r": 4},
    "psoft": {"r": 4},
    "randlora": {"r": 4},
    "road": {"group_size": 8},
    "vera": {"r": 8},
    "waveft": {"n_frequency": 20},
}
# one other value for every option; with what it needs beside it
OTHER = {
    "c3a": {"block_size": 4},
    "deft": {"r": 2, "alpha": 9.0, "decomposition_method": "qr"},
    "delora": {"r": 2, "delora_lambda": 3, "module_dropout": 0.5},
    "fourierft": {"n_frequency": 5, "scaling": 10.0, "random_loc_seed": 3},
    "gralora": {"r": 8, "alpha": 2, "gralora_k": 4, "hybrid_r": 2, "gralora_dropout": 0.5},
    "hira": {"r": 2, "hira_dropout": 0.5},
    "hra": {"r": 2},
    "lily": {"r": 2, "num_B": 3, "scaling": 3.0},
    "loha": {"r": 2, "alpha": 2, "rank_dropout": 0.5, "module_dropout": 0.5},
    "lokr": {
        "r": 3,
        "alpha": 2,
        "decompose_both": True,
        "decompose_factor": 2,
        "rank_dropout": 0.5,
        "module_dropout": 0.5,
    },
    "lora": {
        "r": 2,
        "lora_alpha": 1,
        "lora_dropout": 0.5,
        "use_dora": True,
        "use_rslora": True,
        "init_lora_weights": "gaussian",
    },
    "miss": {"r": 2, "miss_dropout": 0.5},
    "oft": {"oft_block_size": 4, "block_share": True},
    "peanut": {"r": 2, "depth": 1, "scaling": 3.0},
    "psoft": {"r": 2, "psoft_dropout": 0.5},
    "randlora": {"r": 2, "randlora_alpha": 1, "randlora_dropout": 0.5, "projection_prng_key": 3},
    "road": {"variant": "road_2", "group_size": 4},
    "vera": {"r": 4, "d_initial": 0.9, "vera_dropout": 0.5, "projection_prng_key": 3},
    "waveft": {"n_frequency": 5, "scaling": 3.0, "random_loc_seed": 3},
}
WHERE = [(method, where) for method in PEFT_METHODS for where in places(method)]
OPTIONS = [(method, option) for method, options in PEFT_METHODS.items() for option in options]


def encoder(block: str = "plain") -> NextItNet:
    torch.manual_seed(0)
    dilations = (1, 2, 1, 2) if block == "plain" else (1, 2)
    return NextItNet(NextItNetConfig(vocab_size=V, hidden_size=D, dilations=dilations, block=block)).eval()


def histories() -> torch.Tensor:
    ids = torch.randint(3, V, (6, 12), generator=torch.Generator().manual_seed(1))
    ids[:, 6] = TCL
    ids[:2, 9:] = 0
    return ids


def recipe(method: str, where: str, options: dict) -> AdapterRecipe:
    table = {"method": method, "where": where, "options": options}
    values = {"name": "mine", "tuner": "peft", "peft": table, "train_tcl": method == "trainable_tokens"}
    return validate(AdapterRecipe, values, origin="test")


def states(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(histories()).last_hidden_state


def trained(method: str, where: str, options: dict, *, block: str = "plain") -> PeftModel:
    """Three steps from a fixed seed."""
    base = encoder(block)
    torch.manual_seed(5)
    model = adapt(base, recipe(method, where, options), readout="tcl")
    assert isinstance(model, PeftModel)
    target = torch.randn(6, 12, D, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        loss = (model(histories()).last_hidden_state - target).square().mean()
        if loss.requires_grad:  # module_dropout may leave out every module of a step
            loss.backward()
        optimizer.step()
    return model.eval()


# peft says so where plain peft puts LN tuning around a module of ours; adapt() does not
@pytest.mark.filterwarnings("ignore:Unsupported layer type")
@pytest.mark.parametrize("block", ["plain", "bottleneck"])
@pytest.mark.parametrize(("method", "where"), WHERE)
def test_a_method_starts_at_the_encoder_trains_and_loads_again(method, where, block, tmp_path):
    check(method, where, SMALL.get(method, {}), block, tmp_path)


@pytest.mark.parametrize(("method", "option"), OPTIONS)
def test_with_any_option_a_method_starts_at_the_encoder_trains_and_loads_again(method, option, tmp_path):
    options = {**SMALL.get(method, {}), option: OTHER[method][option]}
    check(method, places(method)[0], options, "plain", tmp_path)


def check(method: str, where: str, options: dict, block: str, tmp_path: Path) -> None:
    before = states(encoder(block))
    start = states(adapt(encoder(block), recipe(method, where, options), readout="tcl"))
    torch.testing.assert_close(start, before, rtol=0, atol=1e-5)

    model = trained(method, where, options, block=block)
    after = states(model)
    assert (after - before).abs().max() > 1e-3
    with model.disable_adapter():
        torch.testing.assert_close(states(model), before, rtol=0, atol=1e-5)

    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert not any(tensor.shape == (V, D) for tensor in tensors.values()), "the item table stays out of the file"
    again = PeftModel.from_pretrained(encoder(block), str(tmp_path))
    torch.testing.assert_close(states(again), after, rtol=0, atol=1e-6)

    # our own loading builds the adapter from its recipe, with other random numbers, and fills in the file's tensors
    save_adapter(model, tmp_path / "ours", encoder_revision="r", vocabulary_fingerprint="v")
    path = tmp_path / "ours" / "adapter_model.safetensors"
    torch.manual_seed(99)
    filled = adapt(encoder(block), recipe(method, where, options), readout="tcl")
    assert isinstance(filled, PeftModel)
    fill(adapter_weights(filled), read_weights(path)[0], path=path)
    torch.testing.assert_close(states(filled), after, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "option"), OPTIONS)
def test_no_option_does_nothing(method, option):
    where = places(method)[0]
    small = SMALL.get(method, {})
    plain = states(trained(method, where, small))
    torch.testing.assert_close(states(trained(method, where, small)), plain, rtol=0, atol=0)
    other = states(trained(method, where, {**small, option: OTHER[method][option]}))
    assert not torch.allclose(other, plain, atol=1e-6)


def test_the_tables_of_this_test_name_every_option():
    assert {(method, option) for method, options in OTHER.items() for option in options} == set(OPTIONS)


def test_no_option_can_name_code_or_a_file():
    texts = [kind for options in PEFT_METHODS.values() for kind in options.values() if kind is str]
    assert not texts
    assert not {"target_modules", "modules_to_save", "init_weights", "base_model_name_or_path", "auto_mapping"} & set(
        itertools.chain.from_iterable(PEFT_METHODS.values())
    )
