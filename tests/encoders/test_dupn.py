"""DUPN's encoder against its equations in numpy, and its properties of events."""

import numpy as np
import pytest
import torch
from torch import nn

from peterrec.encoders import DUPN, DUPNConfig, NextItNet, NextItNetConfig


def make(**changes) -> DUPN:
    settings = {"vocab_size": 53, "hidden_size": 6, "num_properties": 4, "property_size": 3, "num_blocks": 2}
    encoder = DUPN(DUPNConfig(**{**settings, **changes})).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
            if name == "property_rows.weight":
                parameter[0] = 0.0
    return encoder.double()


def drawn(high: int, *shape: int, low: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(high))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def reference(encoder: DUPN, history: list[int], properties: list[int] | None) -> np.ndarray:
    """The states `(L, D)` of one unpadded history, gate by gate."""
    weights = {name: value.numpy() for name, value in encoder.state_dict().items()}
    size = encoder.config.hidden_size
    inputs = [weights["embed_tokens.weight"][item] for item in history]
    for number in range(encoder.config.num_blocks):

        def part(name, gate, number=number):
            return weights[f"blocks.{number}.lstm.{name}"][gate * size : (gate + 1) * size]

        h, c, states = np.zeros(size), np.zeros(size), []
        for t, e in enumerate(inputs):
            seen = [part("input.weight", gate) @ e + part("input.bias", gate) for gate in range(4)]
            seen = [own + part("recurrent.weight", gate) @ h for gate, own in enumerate(seen)]
            if properties is not None:
                p = weights["property_rows.weight"][properties[t]]
                for gate in range(3):
                    seen[gate] = seen[gate] + part("property.weight", gate) @ p
            i = sigmoid(seen[0] + part("cell.weight", 0) @ c)
            f = sigmoid(seen[1] + part("cell.weight", 1) @ c)
            c = f * c + i * np.tanh(seen[3])
            o = sigmoid(seen[2] + part("new_cell.weight", 0) @ c)
            h = o * np.tanh(c)
            states.append(h)
        inputs = states
    return np.stack(inputs)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("num_blocks", [1, 2])
@pytest.mark.parametrize("sides", [(0, 0), (0, 3), (3, 0), (2, 1)])
def test_the_states_are_its_equations(sides, num_blocks, known):
    encoder, ids, kinds = make(num_blocks=num_blocks), drawn(53, 3, 7, low=3), drawn(5, 3, 7)
    ids[1, 4:] = 0
    given = nn.functional.pad(kinds, sides, value=2) if known else None  # what stands at padding is not looked at
    found = encoder(nn.functional.pad(ids, sides), property_ids=given).last_hidden_state
    found = found[:, sides[0] : sides[0] + 7]
    for row, length in enumerate((7, 4, 7)):
        own = kinds[row, :length].tolist() if known else None
        wanted = torch.from_numpy(reference(encoder, ids[row, :length].tolist(), own))
        torch.testing.assert_close(found[row, :length], wanted, atol=1e-12, rtol=1e-10)
    assert not found[1, 4:].any()


def test_an_unknown_kind_is_as_none_given_from_the_start():
    torch.manual_seed(0)
    encoder, ids = DUPN(DUPNConfig(vocab_size=53, hidden_size=6, num_properties=4)).eval(), drawn(53, 2, 5, low=3)
    assert not encoder.property_rows.weight[0].any()
    bare = encoder(ids).last_hidden_state
    assert torch.equal(encoder(ids, property_ids=torch.zeros_like(ids)).last_hidden_state, bare)
    kinds = torch.ones_like(ids)
    assert not torch.equal(encoder(ids, property_ids=kinds).last_hidden_state, bare)


def test_properties_reach_gates_and_not_the_candidate():
    encoder = make(num_blocks=1)
    assert encoder.blocks[0].lstm.property.weight.shape == (18, 3), "three gates"
    ids, kinds = drawn(53, 2, 5, low=3), drawn(5, 2, 5)
    loss = encoder(ids, property_ids=kinds).last_hidden_state.square().sum()
    loss.backward()
    assert encoder.property_rows.weight.grad[1:].any()
    assert not encoder.property_rows.weight.grad[0].any()


def test_the_forget_gate_starts_open_and_the_memory_orthogonal():
    torch.manual_seed(0)
    lstm = DUPN(DUPNConfig(vocab_size=53, hidden_size=8)).blocks[0].lstm
    assert lstm.input.bias.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    for weight in lstm.recurrent.weight.split(8):
        torch.testing.assert_close(weight @ weight.T, torch.eye(8), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: make(num_properties=0),
        lambda: NextItNet(NextItNetConfig(vocab_size=53, hidden_size=6, dilations=(1, 2))).double(),
    ],
)
def test_an_encoder_without_properties_refuses_them(encoder):
    ids = drawn(53, 2, 5, low=3)
    with pytest.raises(ValueError, match="reads no property_ids"):
        encoder()(ids, property_ids=torch.ones_like(ids))


def test_the_memory_stays_in_float32_under_autocast():
    encoder, ids = make(num_blocks=1).float(), drawn(53, 2, 40, low=3)
    wanted = encoder(ids).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(ids).last_hidden_state
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < 0.1


# torch's own, at a graph break
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
def test_it_compiles_around_its_loop_for_any_length():
    encoder = make(num_blocks=1)
    compiled = torch.compile(lambda ids: encoder(ids).last_hidden_state, dynamic=True, backend="eager")
    for shape in ((4, 10), (3, 7)):
        ids = drawn(53, *shape, low=3)
        ids[0, :3] = 0
        torch.testing.assert_close(compiled(ids), encoder(ids).last_hidden_state)
