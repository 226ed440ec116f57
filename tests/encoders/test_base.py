"""Running a part of an encoder: the last positions, the upper blocks, and blocks that keep no activations."""

import warnings
from collections.abc import Callable

import pytest
import torch
from peft import BeftConfig, IA3Config, LNTuningConfig, LoraConfig, PeftConfig, TrainableTokensConfig, get_peft_model
from torch import nn

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.errors import SettingsError
from peterrec.tuners import PatchConfig, StarConfig

CONV = ["conv.linear"]
FEATURES = "FEATURE_EXTRACTION"
TUNERS: dict[str, Callable[[], PeftConfig] | None] = {
    "none": None,
    "serial_conv": lambda: PatchConfig(placement="serial_conv", bottleneck=2, train_norms=True),
    "serial_block": lambda: PatchConfig(placement="serial_block", bottleneck=2),
    "parallel_conv": lambda: PatchConfig(placement="parallel_conv", bottleneck=2),
    "parallel_unit": lambda: PatchConfig(placement="parallel_unit", bottleneck=2),
    "shortcut": lambda: PatchConfig(placement="parallel_conv", bottleneck=2, shortcut=True),
    "star_full": lambda: StarConfig(num_domains=2, form="full", norms=True),
    "star_low_rank": lambda: StarConfig(num_domains=2, form="low_rank", rank=2),
    "lora": lambda: LoraConfig(r=2, target_modules=CONV, task_type=FEATURES),
    "dora": lambda: LoraConfig(r=2, target_modules=CONV, use_dora=True, task_type=FEATURES),
    "ia3": lambda: IA3Config(target_modules=CONV, feedforward_modules=[], task_type=FEATURES),
    "norms": lambda: LNTuningConfig(target_modules=["norm"], task_type=FEATURES),
    "block": lambda: LNTuningConfig(target_modules=["blocks.1"], task_type=FEATURES),
    "biases": lambda: BeftConfig(target_modules=CONV, task_type=FEATURES),
}
NO_PLACE = {("parallel_unit", "bottleneck")}  # its units begin, not end, with norm and ReLU


def make(tuner: str = "none", *, double: bool = True, **changes) -> nn.Module:
    """An encoder, its tuner's weights drawn at random, in evaluation mode."""
    torch.manual_seed(0)
    settings = {"vocab_size": 53, "hidden_size": 8, "dilations": (1, 2, 4, 1), "initializer_range": 0.5}
    model: nn.Module = NextItNet(NextItNetConfig(**{**settings, **changes}))
    config = TUNERS[tuner]
    if config is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unsupported layer type")  # peft copies a block whole
            model = get_peft_model(model, config())
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.3)
    return (model.double() if double else model).eval()


def left_padded(lengths: list[int], width: int) -> torch.Tensor:
    ids = torch.randint(3, 53, (len(lengths), width), generator=torch.Generator().manual_seed(1))
    for row, length in enumerate(lengths):
        ids[row, : width - length] = 0
    return ids


def domains(tuner: str, rows: int) -> torch.Tensor | None:
    return torch.arange(rows) % 3 - 1 if tuner.startswith("star") else None


def gradients(model: nn.Module, out: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of every parameter that trains, for a fixed weighting of `out`."""
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad((out * slope).sum(), list(named.values()), allow_unused=True, retain_graph=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), found, strict=True)}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-12, rtol=1e-10, msg=name)


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
@pytest.mark.parametrize("tuner", TUNERS)
def test_the_last_positions_alone_equal_those_of_the_full_run_and_so_do_their_gradients(tuner, block):
    if (tuner, block) in NO_PLACE:
        pytest.skip("there is no such place in this block")
    model = make(tuner, block=block)
    base = model if isinstance(model, NextItNet) else model.get_base_model()
    assert base.config.receptive_field == 17
    for lengths, width in (([40, 17, 16, 18, 3, 1, 0], 40), ([5, 1, 0, 2], 5), ([1, 1, 0], 1)):
        ids = left_padded(lengths, width)
        own = domains(tuner, len(ids))
        full = model(input_ids=ids, domain_ids=own).last_hidden_state
        for positions in (1, 4, 100):
            found = model(input_ids=ids, domain_ids=own, positions=positions)
            assert found.user_vector is None
            wanted = full[:, -positions:]
            torch.testing.assert_close(found.last_hidden_state, wanted, atol=1e-12, rtol=1e-10)
            assert_same(gradients(model, found.last_hidden_state), gradients(model, wanted))


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
def test_no_convolution_computes_a_position_that_nobody_reads(block):
    encoder, computed = make(block=block), []
    for module in encoder.modules():
        if hasattr(module, "taps"):
            module.linear.register_forward_hook(lambda _, args, out: computed.append(out.shape[1]))
    encoder(left_padded([40, 30], 40), positions=1)
    assert computed == [15, 11, 3, 1], "1 + what the convolutions above read: 2, 8, 4 positions more"


def test_reach_is_the_receptive_field_of_what_runs():
    encoder = make()
    assert encoder.reach("last") == encoder.reach("tcl") == encoder.config.receptive_field == 17
    assert [encoder.reach("last", first_block=block) for block in range(3)] == [17, 11, 1]
    assert encoder.reach("mean") is None
    assert make(causal=False).reach("last") is None
    assert encoder.events_read(200, readout="last") == 17
    assert encoder.events_read(200, readout="tcl") == 16, "the TCL row stands at the end"
    assert encoder.events_read(5, readout="last") == 5
    assert encoder.events_read(200, readout="mean") == 200


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tuner", TUNERS)
def test_the_upper_blocks_alone_go_on_from_the_states_below_them(tuner, causal):
    model = make(tuner, causal=causal)
    ids = left_padded([9, 4, 1, 0], 9)
    own = domains(tuner, len(ids))
    whole = model(input_ids=ids, domain_ids=own, output_hidden_states=True)
    for first, state in enumerate(whole.hidden_states):
        again = model(inputs_embeds=state, attention_mask=ids.ne(0), first_block=first, domain_ids=own)
        torch.testing.assert_close(again.last_hidden_state, whole.last_hidden_state, atol=1e-12, rtol=1e-10)


def test_the_dropout_of_the_embeddings_is_not_applied_to_states():
    encoder = make(dropout=0.5).train()
    encoder.blocks.eval()
    states = torch.ones(2, 5, 8, dtype=torch.float64)
    first = encoder(inputs_embeds=states, first_block=2).last_hidden_state
    assert torch.equal(first, states), "above the last block nothing is left to do"


def test_what_does_not_fit_together_is_refused():
    encoder, ids = make(), left_padded([5], 5)
    with pytest.raises(ValueError, match="inputs_embeds"):
        encoder(ids, first_block=1)
    for arguments in ({"positions": 0}, {"positions": 1, "output_hidden_states": True}):
        with pytest.raises(ValueError, match="positions"):
            encoder(ids, **arguments)
    with pytest.raises(ValueError, match="causal"):
        make(causal=False)(ids, positions=1)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("tuner", ["none", "serial_conv", "parallel_conv", "star_full", "lora"])
def test_activation_checkpointing_keeps_outputs_and_gradients(tuner, reentrant):
    model = make(tuner).train()
    base = model if isinstance(model, NextItNet) else model.get_base_model()
    ids = left_padded([20, 7, 1], 20)
    own = domains(tuner, len(ids))

    def run(**changes):
        out = model(input_ids=ids, domain_ids=own, **changes).last_hidden_state
        slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
        model.zero_grad()
        (out * slope).sum().backward()
        return out, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = {positions: run(positions=positions) for positions in (None, 1)}
    base.activation_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant and base is not model:
        base.enable_input_require_grads()  # a re-entrant checkpoint passes gradients through such inputs only
    calls = []
    for block in base.blocks:
        block.unit1.register_forward_hook(lambda *_: calls.append(1))
    try:
        for positions, (out, wanted) in plain.items():
            calls.clear()
            found, got = run(positions=positions)
            assert len(calls) == 2 * len(base.blocks), "each block runs again in the backward pass"
            assert torch.equal(found, out)
            assert_same(got, wanted)
    finally:
        base.activation_checkpointing_disable()
    calls.clear()
    run()
    assert len(calls) == len(base.blocks)


def test_dropout_is_drawn_once_under_activation_checkpointing():
    encoder = make(dropout=0.5).train()
    ids = left_padded([20, 7], 20)
    results = []
    for checkpointed in (False, True):
        if checkpointed:
            encoder.activation_checkpointing_enable()
        torch.manual_seed(5)
        results.append(gradients_by_backward(encoder, encoder(ids).last_hidden_state))
    assert_same(results[1], results[0])


def gradients_by_backward(model: nn.Module, out: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    out.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("positions", [1])
def test_it_compiles_without_a_graph_break_for_any_length(positions):
    encoder = make(dilations=(1, 2))
    compiled = torch.compile(
        lambda ids: encoder(ids, positions=positions).last_hidden_state, fullgraph=True, dynamic=True, backend="eager"
    )
    for shape in ((4, 40), (3, 9)):
        ids = left_padded([shape[1]] * shape[0], shape[1])
        torch.testing.assert_close(compiled(ids), encoder(ids, positions=positions).last_hidden_state)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("block", ["plain", "bottleneck"])
@pytest.mark.parametrize("how", ["hook", "subclass"])
def test_padding_is_exact_where_a_block_is_not_zero_there(how, block, causal):
    encoder = make(block=block, causal=causal)
    first = encoder.blocks[0]
    if how == "hook":
        first.register_forward_hook(lambda module, args, output: output + 1)
    else:
        kind = type(first)
        first.__class__ = type("Raised", (kind,), {"forward": lambda self, *a, **k: kind.forward(self, *a, **k) + 1})
    ids = left_padded([6], 6)
    wanted = encoder(ids).last_hidden_state
    for sides in ((5, 0), (0, 5), (2, 3)):
        padded = torch.nn.functional.pad(ids, sides)
        found = encoder(padded).last_hidden_state[:, sides[0] : sides[0] + 6]
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)


def test_a_wrapped_item_table_has_dense_gradients_and_says_so():
    encoder = make()
    encoder.sparse_rows = True
    assert encoder.embed_tokens.sparse
    encoder.sparse_rows = False
    config = TrainableTokensConfig(token_indices=[2], target_modules=["embed_tokens"])
    base = get_peft_model(encoder, config).get_base_model()
    assert not base.sparse_rows
    base.sparse_rows = False
    with pytest.raises(SettingsError, match="embed_tokens is wrapped"):
        base.sparse_rows = True
