"""The encoder-decoder against plain numpy; what each state depends on; padding; its interface and every adapter."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from peterrec import catalogue
from peterrec.adaptation import adapt, build
from peterrec.adapter_recipe import AdapterRecipe
from peterrec.catalogue import TaskRecipe
from peterrec.data.vocabulary import MASK, PAD, TCL
from peterrec.encoders.grec import GRec
from peterrec.encoders.grec_block import JoinBlock
from peterrec.encoders.grec_config import GRecConfig
from peterrec.encoders.loading import load_encoder, save_encoder
from peterrec.encoders.user_state import UserState
from peterrec.errors import SettingsError
from peterrec.tuners import PatchConfig, StarConfig

BLOCKS = ["plain", "bottleneck"]
RECIPES = {
    recipe.name: recipe
    for recipe in map(catalogue.adapter, catalogue.names("adapters"))
    if recipe.tuner not in ("none", "full")
}
NOT_AT_THE_START = {
    recipe.name for recipe in RECIPES.values() if recipe.patch is not None and recipe.patch.shortcut
}  # the published patch adds its input once more
AT_THE_TOP = ("last_1", "last_2", "serial_top")  # with two causal blocks, these reach no further


def make(*, double: bool = True, **changes) -> GRec:
    """A small encoder with weights well away from zero, in evaluation mode; the decoder is deeper."""
    torch.manual_seed(0)
    settings = {"vocab_size": 53, "hidden_size": 8, "encoder_dilations": (1, 2), "decoder_dilations": (1, 2, 1, 2)}
    encoder = GRec(GRecConfig(**{**settings, "initializer_range": 0.4, **changes}))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return (encoder.double() if double else encoder).eval()


def items(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, 53, shape, generator=torch.Generator().manual_seed(seed))


def states(model: nn.Module, ids: torch.Tensor, decoder_ids: torch.Tensor | None = None) -> torch.Tensor:
    return model(input_ids=ids, decoder_input_ids=decoder_ids).last_hidden_state


def norm(x, weights, name):
    mean, var = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def convolution(x, weights, name, *, dilation, causal):
    """Position by position, tap by tap."""
    length, width = x.shape
    weight = weights[f"{name}.linear.weight"]
    out = np.tile(weights[f"{name}.linear.bias"], (length, 1))
    for position in range(length):
        for tap in range(3):
            source = position + (tap - (2 if causal else 1)) * dilation
            if 0 <= source < length:
                out[position] += weight[:, tap * width : (tap + 1) * width] @ x[source]
    return out


def stack(x, weights, dilations, *, first, causal):
    """One stack of plain blocks on one history `(L, D)`, its lowest being block `first`."""
    for number, block in enumerate(range(0, len(dilations), 2), first):
        inner = x
        for unit in (1, 2):
            name = f"blocks.{number}.unit{unit}"
            dilation = dilations[block + unit - 1]
            inner = convolution(inner, weights, f"{name}.conv", dilation=dilation, causal=causal)
            inner = np.maximum(norm(inner, weights, f"{name}.norm"), 0)
        x = x + inner
    return x


def test_it_computes_what_plain_numpy_computes():
    encoder = make(encoder_dilations=(1, 2, 2, 1))
    weights = {name: tensor.numpy() for name, tensor in encoder.state_dict().items()}
    ids, decoder_ids = items(2, 9), items(2, 9, seed=2)
    ids[:, [2, 6]] = MASK
    found = states(encoder, ids, decoder_ids)
    for row in range(2):
        encoded = stack(weights["embed_tokens.weight"][ids[row]], weights, (1, 2, 2, 1), first=0, causal=False)
        joined = encoded + weights["decoder.embed_tokens.weight"][decoder_ids[row]]
        name = "blocks.2.projector"
        inner = np.maximum(joined @ weights[f"{name}.widen.weight"].T + weights[f"{name}.widen.bias"], 0)
        assert inner.shape == (9, 16)
        joined = joined + inner @ weights[f"{name}.narrow.weight"].T + weights[f"{name}.narrow.bias"]
        wanted = stack(joined, weights, (1, 2, 1, 2), first=3, causal=True)
        np.testing.assert_allclose(found[row].detach().numpy(), wanted, rtol=1e-10, atol=1e-10)


def test_the_blocks_are_the_two_sided_ones_the_join_and_the_causal_ones():
    encoder = make(encoder_dilations=(1, 2, 2, 1))
    convolutions = [[m.causal for m in block.modules() if hasattr(m, "causal")] for block in encoder.blocks]
    assert convolutions == [[False] * 2, [False] * 2, [], [True] * 2, [True] * 2]
    assert isinstance(encoder.blocks[encoder.join], JoinBlock)
    assert len(encoder.blocks) == encoder.config.depth == len(encoder.spans)


def read(encoder: GRec, *, position: int, length: int = 24) -> tuple[list[int], list[int]]:
    """The positions of the encoder's and of the decoder's input on which the state at a position depends."""
    pair, valid = encoder.embed(items(1, length))
    pair = pair.detach().requires_grad_()
    encoder(inputs_embeds=pair, attention_mask=valid).last_hidden_state[0, position].square().sum().backward()
    assert pair.grad is not None
    sides = pair.grad[0].split(encoder.config.hidden_size, dim=1)
    return tuple(side.abs().sum(dim=1).nonzero().squeeze(1).tolist() for side in sides)  # type: ignore[return-value]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_decoder_reads_what_is_past_and_what_the_encoder_found_there_on_both_sides(block):
    encoder = make(block=block, hidden_size=16)
    two_sided, causal = read(encoder, position=16)
    assert causal == list(range(4, 17)), "12 back"
    assert two_sided == list(range(1, 20)), "3 more to each side"
    assert encoder.config.receptive_field == 19 == len(set(two_sided) | set(causal))


@pytest.mark.parametrize("block", BLOCKS)
def test_changing_the_decoder_inputs_ahead_changes_no_bit_of_a_state(block):
    encoder, ids = make(block=block), items(2, 12)
    before = states(encoder, ids, ids)
    for position in range(1, 12):
        other = ids.clone()
        other[:, position] = items(2, seed=position + 10)
        after = states(encoder, ids, other)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.allclose(after[:, position], before[:, position])
        behind = states(encoder, other, ids)
        assert not torch.allclose(behind[:, position - 1], before[:, position - 1]), "the encoder does look ahead"


@pytest.mark.parametrize("how", ["fused", "modules", "hooked"])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("readout", ["mean", "last"])
def test_padding_on_either_side_changes_nothing(readout, block, how):
    encoder = make(block=block, readout=readout)
    for each in encoder.blocks:
        if how == "modules" and not isinstance(each, JoinBlock):
            each.fused = False
        elif how == "hooked":
            each.register_forward_hook(lambda module, args, output: output + 1)
    ids, decoder_ids = items(3, 7), items(3, 7, seed=2)
    ids[:, 3] = MASK
    wanted = encoder(ids, decoder_input_ids=decoder_ids)
    for sides in ((4, 0), (0, 4), (2, 5)):
        padded = [nn.functional.pad(each, sides, value=PAD) for each in (ids, decoder_ids)]
        found = encoder(padded[0], decoder_input_ids=padded[1])
        inside = found.last_hidden_state[:, sides[0] : sides[0] + 7]
        torch.testing.assert_close(inside, wanted.last_hidden_state, atol=1e-12, rtol=1e-10)
        torch.testing.assert_close(found.user_vector, wanted.user_vector, atol=1e-12, rtol=1e-10)
        assert found.last_hidden_state.abs().sum(dim=2).eq(0).sum() == 3 * sum(sides), "zero at padding"
        shut = torch.zeros_like(padded[0])
        shut[:, sides[0] : sides[0] + 7] = 1
        garbage = torch.where(shut.bool(), padded[0], 9), torch.where(shut.bool(), padded[1], 9)
        by_mask = encoder(garbage[0], attention_mask=shut, decoder_input_ids=garbage[1])
        torch.testing.assert_close(by_mask.user_vector, wanted.user_vector, atol=1e-12, rtol=1e-10)


def test_a_user_alone_and_among_others_gets_the_same_states():
    encoder, ids = make(), items(4, 9)
    ids[1, 4:] = PAD
    together = encoder(ids)
    for row, length in enumerate((9, 4, 9, 9)):
        alone = encoder(ids[row : row + 1, :length])
        torch.testing.assert_close(alone.last_hidden_state[0], together.last_hidden_state[row, :length])
        torch.testing.assert_close(alone.user_vector[0], together.user_vector[row])
    empty = encoder(torch.full((1, 3), PAD))
    assert torch.equal(empty.user_vector, torch.zeros_like(empty.user_vector))


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_that_run_as_one_function_compute_what_their_modules_do(block):
    encoder, ids, decoder_ids = make(block=block), items(3, 9), items(3, 9, seed=2)
    ids[1, 5:] = decoder_ids[1, 5:] = ids[2, :2] = decoder_ids[2, :2] = PAD
    found = []
    for fused in (True, False):
        for each in encoder.blocks:
            if not isinstance(each, JoinBlock):
                each.fused = fused
        out = states(encoder, ids, decoder_ids)
        found.append([out, *torch.autograd.grad(out.square().sum(), [*encoder.blocks.parameters()])])
    for once, again in zip(*found, strict=True):
        torch.testing.assert_close(again, once, atol=1e-10, rtol=1e-8)


def test_without_decoder_inputs_both_stacks_read_the_same():
    encoder, ids = make(), items(2, 6)
    assert torch.equal(states(encoder, ids), states(encoder, ids, ids))


@pytest.mark.parametrize("block", BLOCKS)
def test_the_upper_blocks_go_on_from_the_states_below_them(block):
    encoder, ids = make(block=block), items(3, 9)
    ids[1, 5:] = PAD
    whole = encoder(ids, output_hidden_states=True)
    hidden, valid = encoder.embed(ids)
    depth = len(encoder.blocks)
    assert [tuple(layer.shape) for layer in whole.hidden_states] == [(3, 9, 8)] * (depth + 1)
    rows = encoder.embed_tokens(ids) * valid.unsqueeze(2)
    assert torch.equal(whole.hidden_states[0], rows), "what the two-sided blocks read"
    assert torch.equal(whole.hidden_states[-1], whole.last_hidden_state)
    for first in range(depth + 1):
        below = encoder.run_blocks(hidden, valid, stop=first)
        assert below.shape[2] == (16 if first <= encoder.join else 8)
        above = encoder(inputs_embeds=below, attention_mask=valid, first_block=first).last_hidden_state
        torch.testing.assert_close(above, whole.last_hidden_state, atol=1e-12, rtol=1e-10)
        layer = encoder.layer(below) * valid.unsqueeze(2)
        torch.testing.assert_close(layer, whole.hidden_states[first], atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("layers", [(0,), (0, 1, -1), (1, 2, 3)])
def test_a_readout_over_the_layers_reads_states_without_what_stands_beside_them(layers):
    encoder, ids = make(readout="mean", readout_layers=layers), items(3, 9)
    ids[1, 5:] = PAD
    found = encoder(ids, output_hidden_states=True)
    counts = ids.ne(PAD).sum(dim=1, keepdim=True)
    chosen = [found.hidden_states[layer] for layer in layers]
    wanted = torch.stack([layer.sum(dim=1) / counts for layer in chosen]).mean(dim=0)
    torch.testing.assert_close(found.user_vector, wanted)
    if layers == (0,):
        rows = encoder.embed_tokens(ids) * ids.ne(PAD).unsqueeze(2)
        torch.testing.assert_close(found.user_vector, rows.sum(dim=1) / counts)


def test_what_it_cannot_do_is_refused():
    encoder, ids = make(), items(2, 5)
    assert encoder.predicts == "next"
    assert encoder.reach("last") is None
    assert encoder.events_read(200, readout="last") == 200
    for arguments, message in (
        ({"input_ids": ids, "positions": 1}, "causal"),
        ({"input_ids": ids, "decoder_input_ids": ids[:, :3]}, "shape"),
        ({"inputs_embeds": torch.zeros(2, 5, 8), "attention_mask": ids}, "side by side"),
        ({"inputs_embeds": torch.zeros(2, 5, 16), "decoder_input_ids": ids}, "go with input_ids"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder(**arguments)
    hidden, valid = encoder.embed(ids)
    with pytest.raises(ValueError, match="positions"):
        encoder.run_blocks(hidden, valid, positions=1)
    with pytest.raises(ValueError, match="property_ids"):
        encoder.run_blocks(hidden, valid, property_ids=ids)
    with pytest.raises(SettingsError, match="two-sided"):
        UserState.empty(encoder, users=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_dilations": (1,)}, "encoder_dilations"),
        ({"decoder_dilations": ()}, "decoder_dilations"),
        ({"decoder_dilations": (1, 0)}, "decoder_dilations"),
        ({"kernel_size": 4}, "odd"),
        ({"block": "plane"}, "plain"),
        ({"block": "bottleneck", "hidden_size": 9}, "even"),
        ({"readout_layers": (4,)}, "readout_layers"),
    ],
)
def test_a_configuration_that_does_not_fit_says_which_field(changes, message):
    with pytest.raises(Exception, match=message):
        GRecConfig(**{"encoder_dilations": (1, 2), "decoder_dilations": (1, 2), **changes})


@pytest.mark.parametrize("changes", [{}, {"tie_output": False, "block": "bottleneck", "readout": "last"}])
def test_it_is_saved_and_loaded(changes, tmp_path):
    encoder, ids = make(double=False, **changes), items(3, 8)
    save_encoder(encoder, config_path=tmp_path / "config.json", weights_path=tmp_path / "model.safetensors")
    again = load_encoder(tmp_path)
    assert isinstance(again, GRec)
    assert again.config.decoder_dilations == [1, 2, 1, 2]
    assert torch.equal(again(ids).user_vector, encoder(ids).user_vector)
    assert torch.equal(again.score_table(), encoder.score_table())


def test_both_tables_have_row_sparse_gradients_where_that_is_asked_for():
    encoder, ids, decoder_ids = make(), items(2, 4), items(2, 4, seed=2)
    tables = {"encoder": encoder.embed_tokens.weight, "decoder": encoder.decoder["embed_tokens"].weight}

    def gradients():
        encoder.zero_grad()
        states(encoder, ids, decoder_ids).square().sum().backward()
        return {name: table.grad for name, table in tables.items()}

    dense = gradients()
    encoder.sparse_rows = True
    assert encoder.sparse_rows
    sparse = gradients()
    encoder.sparse_rows = False
    assert not encoder.sparse_rows
    for name, rows in (("encoder", ids), ("decoder", decoder_ids)):
        assert sparse[name].is_sparse
        torch.testing.assert_close(sparse[name].to_dense(), dense[name])
        assert set(dense[name].abs().sum(dim=1).nonzero().squeeze(1).tolist()) == set(rows.flatten().tolist())


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_keeps_outputs_and_gradients(reentrant):
    encoder, ids = make(dropout=0.3).train(), items(3, 9)
    ids[1, 4:] = PAD
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            encoder.activation_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(5)
        encoder.zero_grad()
        out = states(encoder, ids)
        out.square().sum().backward()
        gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
        found.append({"out": out.detach(), **gradients})
    assert found[0].keys() == found[1].keys()
    for name, wanted in found[0].items():
        torch.testing.assert_close(found[1][name], wanted, atol=1e-12, rtol=1e-10, msg=name)


def test_it_compiles_without_a_graph_break():
    encoder = make(encoder_dilations=(1, 2), decoder_dilations=(1, 2))
    compiled = torch.compile(
        lambda ids, other: states(encoder, ids, other), fullgraph=True, dynamic=True, backend="eager"
    )
    for shape in ((4, 12), (3, 9)):
        ids, other = items(*shape), items(*shape, seed=2)
        ids[1, 5:] = other[1, 5:] = PAD
        torch.testing.assert_close(compiled(ids, other), states(encoder, ids, other))


def test_autocast_computes_in_bfloat16_and_close_to_full_precision():
    encoder, ids = make(double=False, initializer_range=0.1), items(3, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = states(encoder, ids)
    low.float().square().sum().backward()
    full = states(encoder, ids)
    assert 0 < (low.float() - full).abs().max() < 0.1 * full.abs().max()


def adapted(encoder: GRec, recipe: AdapterRecipe) -> PeftModel:
    torch.manual_seed(3)
    model = adapt(encoder, recipe, readout=recipe.readout or ("tcl" if recipe.train_tcl else "mean"))
    assert isinstance(model, PeftModel)
    return model.eval()


def wide(**changes) -> GRec:
    """Equal at every call, and wide enough for every recipe's bottleneck."""
    return make(double=False, hidden_size=16, initializer_range=0.1, **changes)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_starts_at_the_encoder_trains_and_is_saved(name: str, tmp_path: Path):
    recipe, ids, decoder_ids = RECIPES[name], items(4, 9), items(4, 9, seed=2)
    ids[:, -1] = decoder_ids[:, -1] = TCL
    encoder = wide()
    frozen = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    before = states(encoder, ids, decoder_ids)
    model = adapted(encoder, recipe)
    if name not in NOT_AT_THE_START:
        torch.testing.assert_close(states(model, ids, decoder_ids), before, rtol=0, atol=1e-5)
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    start = {key: p.detach().clone() for key, p in trained.items()}
    optimiser = torch.optim.AdamW(trained.values(), lr=0.05)
    wanted = torch.randn(before.shape, generator=torch.Generator().manual_seed(4))
    for _ in range(3):
        optimiser.zero_grad()
        (states(model, ids, decoder_ids) - wanted).square().mean().backward()
        optimiser.step()
    changed = {key for key, p in trained.items() if not torch.equal(p, start[key])}
    assert {side(key) for key in changed} - {"join"} == ({"decoder"} if name in AT_THE_TOP else {"encoder", "decoder"})
    after = states(model, ids, decoder_ids)
    assert not torch.allclose(after, before, atol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(states(model, ids, decoder_ids), before, rtol=0, atol=1e-5)
    kept = model.get_base_model().state_dict()
    for key, tensor in frozen.items():
        same = [other for own, other in kept.items() if plain(own) == key]
        assert len(same) == 1, key
        assert torch.equal(same[0], tensor), f"{key} is frozen"
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = loaded(wide(), tmp_path)
    torch.testing.assert_close(states(again, ids, decoder_ids), after, rtol=0, atol=1e-6)


def side(name: str) -> str:
    """To which of the two stacks of `wide()` a weight belongs; the item tables are their lowest layers."""
    if any(f".blocks.{number}." in name for number in (2, 3)) or ".decoder.embed_tokens." in name:
        return "decoder"
    return "encoder" if ".blocks.0." in name or ".embed_tokens." in name else "join"


def plain(name: str) -> str:
    """A weight's name without the wrappers around it."""
    for wrapper in (".base_layer", ".original_module", ".token_adapter"):
        name = name.replace(wrapper, "")
    return name


def loaded(encoder: GRec, folder: Path) -> PeftModel:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type '.*' encountered, proceed at your own risk")
        return PeftModel.from_pretrained(encoder, folder).eval()  # type: ignore[arg-type]


def test_the_projector_can_be_wrapped():
    encoder, ids = wide(), items(2, 7)
    before = states(encoder, ids)
    config = LoraConfig(r=2, target_modules=["projector.widen", "projector.narrow"], task_type="FEATURE_EXTRACTION")
    model = get_peft_model(encoder, config).eval()
    assert sum(p.requires_grad for p in model.parameters()) == 4
    assert torch.equal(states(model, ids), before)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    assert not torch.allclose(states(model, ids), before, atol=1e-2)


def test_each_row_gets_the_weights_of_its_domain_in_both_stacks_and_the_projector():
    encoder, ids = wide(), items(4, 7)
    before = states(encoder, ids)
    model = get_peft_model(encoder, StarConfig(num_domains=2, form="full")).eval()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for part in (".blocks.0.", ".projector.widen.", ".projector.narrow.", ".blocks.2.", ".blocks.3."):
        own = [p for name, p in trained.items() if part in name]
        assert own
        for parameter in own:
            nn.init.normal_(parameter, std=0.3)
        domains = torch.tensor([1, 0, -1, 1])
        found = model(input_ids=ids, domain_ids=domains).last_hidden_state
        torch.testing.assert_close(found[2], before[2], rtol=0, atol=1e-5, msg="an unknown domain has none of its own")
        for row in (0, 1, 3):
            assert not torch.allclose(found[row], before[row], atol=1e-3)
            alone = model(input_ids=ids[row : row + 1], domain_ids=domains[row : row + 1]).last_hidden_state[0]
            torch.testing.assert_close(alone, found[row], rtol=0, atol=1e-5)
        for parameter in own:
            nn.init.zeros_(parameter)


@pytest.mark.parametrize("placement", ["serial_conv", "serial_block", "parallel_conv", "parallel_unit"])
def test_each_row_goes_through_its_own_patches_and_they_come_off_again(placement):
    encoder, ids = wide(), items(3, 7)
    before = states(encoder, ids)
    model = get_peft_model(encoder, PatchConfig(placement=placement, bottleneck=2))
    model.add_adapter("other", PatchConfig(placement=placement, bottleneck=2))
    model.eval()
    found = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.3)
        found[name] = states(model, ids)
    mixed = model(input_ids=ids, adapter_names=["other", "default", "__base__"]).last_hidden_state
    wanted = torch.stack([found["other"][0], found["default"][1], before[2]])
    torch.testing.assert_close(mixed, wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(found["other"], found["default"], atol=1e-2)
    torch.testing.assert_close(states(model.unload(), ids), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "standing"), [("last_1", 4), ("lora", 0), ("serial_top", 3), ("none", 5)])
def test_a_task_model_goes_on_from_the_states_that_stand(name, standing):
    model = build(
        wide(decoder_dilations=(1, 2) * 3),
        adapter=catalogue.adapter(name),
        task=TaskRecipe(name="age", column="age", readout="mean"),
        num_classes=3,
    ).eval()
    assert model.standing_blocks == standing
    ids = items(3, 9)
    ids[1, 5:] = PAD
    vectors = model.user_vectors(ids)
    for blocks in range(standing + 1):
        below, valid = model.states_above(blocks, ids)
        torch.testing.assert_close(model.vectors_of_states(below, valid, first_block=blocks), vectors)
