"""SASRec against its equations in numpy, its positions, and what it leaves out."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from peterrec.encoders import SASRec, SASRecConfig
from peterrec.encoders.readout import valid_positions


def make(**changes) -> SASRec:
    settings = {"vocab_size": 53, "hidden_size": 8, "max_length": 12, "num_blocks": 2, "heads": 2, "feed_forward": 3}
    encoder = SASRec(SASRecConfig(**{**settings, **changes})).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            centre = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.copy_(centre + 0.5 * torch.randn(parameter.shape, generator=generator))
    return encoder.double()


def items(*shape: int) -> torch.Tensor:
    return torch.randint(3, 53, shape, generator=torch.Generator().manual_seed(1))


def reference(encoder: SASRec, history: list[int]) -> np.ndarray:
    """The states `(L, D)` of one unpadded history, one position and one head at a time."""
    weights = {name: value.numpy() for name, value in encoder.state_dict().items()}
    config = encoder.config
    size = config.hidden_size // config.heads

    def linear(name, x):
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def norm(name, x):
        scaled = (x - x.mean()) / math.sqrt(((x - x.mean()) ** 2).mean() + config.layer_norm_eps)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def activation(x):
        if config.activation == "relu":
            return np.maximum(x, 0)
        return np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])

    length = len(history)
    states = [
        weights["embed_tokens.weight"][item] + weights["embed_positions.weight"][length - 1 - t]
        for t, item in enumerate(history)
    ]
    for number in range(config.num_blocks):
        at = f"blocks.{number}"
        normed = [norm(f"{at}.unit1.norm", x) for x in states]
        query, key, value = (
            [linear(f"{at}.unit1.attention.{name}", x) for x in normed] for name in ("query", "key", "value")
        )
        mixed = []
        for t in range(length):
            heads = []
            for own in (slice(head * size, (head + 1) * size) for head in range(config.heads)):
                logits = np.array([query[t][own] @ key[s][own] / math.sqrt(size) for s in range(t + 1)])
                share = np.exp(logits - logits.max())
                heads.append(sum(p * value[s][own] for s, p in enumerate(share / share.sum())))
            mixed.append(np.concatenate(heads))
        states = [x + linear(f"{at}.unit1.attention.output", y) for x, y in zip(states, mixed, strict=True)]
        inner = [activation(linear(f"{at}.unit2.feed_forward.up", norm(f"{at}.unit2.norm", x))) for x in states]
        states = [x + linear(f"{at}.unit2.feed_forward.down", y) for x, y in zip(states, inner, strict=True)]
    return np.stack([norm(f"blocks.{config.num_blocks - 1}.norm", x) for x in states])


@pytest.mark.parametrize("changes", [{}, {"heads": 1, "activation": "relu"}, {"num_blocks": 1, "heads": 4}])
@pytest.mark.parametrize("sides", [(0, 0), (0, 3), (3, 0), (2, 1)])
def test_the_states_are_its_equations(changes, sides):
    encoder, ids = make(**changes), items(3, 7)
    ids[1, 4:] = 0
    found = encoder(nn.functional.pad(ids, sides)).last_hidden_state[:, sides[0] : sides[0] + 7]
    for row, length in enumerate((7, 4, 7)):
        wanted = torch.from_numpy(reference(encoder, ids[row, :length].tolist()))
        torch.testing.assert_close(found[row, :length], wanted, atol=1e-10, rtol=1e-10)
    assert not found[1, 4:].any()


@pytest.mark.parametrize("length", [13, 14, 30])
def test_one_call_encodes_the_last_positions_of_a_longer_history(length):
    encoder, ids = make(), items(2, length)
    assert encoder.window == 13, "max_length events and a TCL row"
    found = encoder(ids).last_hidden_state
    torch.testing.assert_close(found[:, -13:], encoder(ids[:, -13:]).last_hidden_state, atol=1e-12, rtol=1e-10)
    assert not found[:, :-13].any()
    padded = nn.functional.pad(ids, (1, 4))
    torch.testing.assert_close(encoder(padded).last_hidden_state[:, 1:-4], found, atol=1e-12, rtol=1e-10)


def test_a_user_vector_is_of_the_positions_that_are_encoded():
    encoder, ids = make(readout="mean"), items(2, 20)
    torch.testing.assert_close(encoder(ids).user_vector, encoder(ids[:, -13:]).user_vector, atol=1e-12, rtol=1e-10)


def test_positions_tell_the_order_of_events():
    encoder, ids = make(num_blocks=1), torch.tensor([[3, 4, 5, 9], [4, 3, 5, 9]])
    found = encoder(ids).last_hidden_state[:, -1]
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    encoder.embed_positions.weight.data.zero_()
    found = encoder(ids).last_hidden_state[:, -1]
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=1e-12)


def test_states_of_the_embeddings_hold_no_position():
    encoder, ids = make(), items(1, 5)
    states = encoder(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[0], encoder.embed_tokens(ids), atol=0, rtol=0)


def test_nothing_of_the_size_of_all_pairs_is_made_where_nothing_is_padded_on_the_left():
    encoder, ids = make(heads=2).float(), items(2, 12)
    ids[1, 5:] = 0
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, torch.Tensor):
                    assert tuple(tensor.shape[-2:]) != (12, 12), func
            return out

    with Watch(), torch.no_grad():
        encoder(ids)


def test_attention_dropout_is_on_in_training_alone_and_a_frozen_encoder_can_switch_it_off():
    encoder, ids = make(attention_dropout=0.5), items(2, 9)
    wanted = encoder(ids).last_hidden_state
    encoder.train()
    assert not torch.allclose(encoder(ids).last_hidden_state, wanted)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    torch.testing.assert_close(encoder(ids).last_hidden_state, wanted, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "heads must divide hidden_size"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"activation": "tanh"}, "activation must be one of gelu, relu"),
        ({"attention_dropout": 1.0}, "attention_dropout"),
        ({"readout_layers": [3]}, "from 0 .the embeddings. to 2"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(Exception, match=message):
        make(**changes)


def test_it_compiles_without_a_graph_break_for_any_length():
    encoder = make()
    compiled = torch.compile(lambda ids: encoder(ids).last_hidden_state, fullgraph=True, dynamic=True, backend="eager")
    for shape in ((4, 10), (3, 7)):
        ids = items(*shape)
        ids[0, :3] = 0
        torch.testing.assert_close(compiled(ids), encoder(ids).last_hidden_state)


def test_bf16_autocast_keeps_the_states_close():
    encoder, ids = make().float(), items(3, 9)
    ids[0, :4] = 0
    wanted = encoder(ids).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(ids).last_hidden_state
    assert (found.float() - wanted).abs().mean() < 0.05
    assert valid_positions(ids)[0].sum() == 5
