"""CoNet: cross connections that are off, more than two outputs, and the penalty of SCoNet."""

import pytest
import torch

LAYER = {"router": "matrix", "own_experts": 1, "hidden": (6, 4)}


def test_without_cross_connections_it_is_separate_towers(body, x):
    crossed = body(LAYER)
    towers = body({"own_experts": 1, "hidden": (6, 4)})
    towers.load_state_dict({name: value for name, value in crossed.state_dict().items() if "router" not in name})
    assert not torch.allclose(crossed(x)[-1], towers(x)[-1])
    with torch.no_grad():
        for cross in crossed.layers[0].router.cross:
            cross.weight.zero_()
    torch.testing.assert_close(crossed(x)[-1], towers(x)[-1])


def test_each_output_reads_all_others(body, x):
    built = body(LAYER, outputs=3)
    router, experts = built.layers[0].router, built.layers[0].experts
    own = [x] * 3
    for level in range(2):
        others = [sum(own[n] for n in range(3) if n != m) @ router.cross[level].weight.T for m in range(3)]
        own = [(experts[m].linears[level](own[m]) + others[m]).relu() for m in range(3)]
    torch.testing.assert_close(built(x)[-1], torch.stack(own, dim=1))


def test_one_output_has_nothing_to_cross(body, x):
    built = body({**LAYER, "penalty": 1.0}, outputs=1)
    assert not list(built.layers[0].router.parameters())
    assert built(x)[-1].shape == (7, 1, 4)
    assert built.penalty().item() == 0


def test_the_penalty_is_the_l1_norm(body):
    built = body({**LAYER, "penalty": 0.5})
    wanted = sum(abs(v) for cross in built.layers[0].router.cross for v in cross.weight.flatten().tolist())
    assert built.penalty().item() == pytest.approx(0.5 * wanted)
