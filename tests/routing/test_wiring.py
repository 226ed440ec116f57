"""Who reads whom, and layers that do not fit together."""

import pytest

from peterrec.body_recipe import BodyLayer
from peterrec.errors import SettingsError
from peterrec.routing.wiring import wire


def wired(*layers: dict[str, object], reads: list[int]):
    return wire([BodyLayer(**layer) for layer in layers], reads=reads)


OWN = {"own_experts": 1}
SHARED = {"experts": 1}
STITCH = {"router": "linear", "own_experts": 1}
MMOE = {"router": "softmax", "experts": 2}
PLE = {"router": "softmax", "experts": 1, "own_experts": 2}
SNR = {"router": "hard_concrete", "experts": 3}


def test_experts_and_gates_read_their_own_branch():
    lower, upper = wired(PLE, PLE, reads=[1, 1])
    assert lower.experts == (None, 0, 0, 1, 1)
    assert lower.branches == (0, 1, None)
    assert lower.expert_inputs == (0,) * 5
    assert upper.branches == (0, 1)
    assert upper.expert_inputs == (2, 0, 0, 1, 1)
    assert upper.gate_inputs == (0, 1)
    assert lower.visible(1) == (0, 3, 4)
    assert lower.visible(None) == (0, 1, 2, 3, 4)


def test_only_gates_that_somebody_reads():
    assert wired(MMOE, OWN, reads=[1, 1])[0].branches == (0, 1)
    assert wired(MMOE, SHARED, reads=[1, 1])[0].branches == (None,)
    assert wired(MMOE, SHARED, reads=[1, 0])[0].branches == (1, None)
    assert wired(MMOE, {**MMOE, "tied": True}, reads=[1, 1])[0].branches == (None,)
    assert wired(MMOE, MMOE, reads=[1, 1])[0].branches == (0, 1, None)


def test_snr_hands_a_branch_to_each_expert_and_gate_above():
    lower, upper = wired(SNR, PLE, reads=[1, 0, 1])
    assert upper.experts == (None, 0, 0, 2, 2)
    assert lower.handed == 7
    assert lower.width == 8
    assert upper.expert_inputs == (0, 1, 2, 3, 4)
    assert upper.gate_inputs == (5, 6)
    assert lower.branch(1) == 7
    assert lower.branch(0) is None


def test_all_read_a_single_branch():
    for lower in (SHARED, {**MMOE, "tied": True}):
        below, above = wired(lower, PLE, reads=[1, 1])
        assert below.width == 1
        assert set(above.expert_inputs + above.gate_inputs) == {0}
        assert [below.branch(m) for m in range(2)] == [0, 0]


@pytest.mark.parametrize("lower", [OWN, STITCH, {"router": "matrix", "own_experts": 1}])
@pytest.mark.parametrize("upper", [SHARED, MMOE, PLE, SNR])
def test_shared_experts_need_a_shared_branch(lower, upper):
    with pytest.raises(SettingsError, match=r"layer 1 has shared experts.*layer 0 below it gives one vector an output"):
        wired(lower, upper, reads=[1, 1])


def test_a_top_that_nobody_reads():
    with pytest.raises(SettingsError, match=r"No head reads the top of the body, layer 1: leave that layer out"):
        wired(OWN, OWN, reads=[0, 0])


def test_one_gate_for_all_has_no_own_experts():
    with pytest.raises(SettingsError, match=r"layer 0 has tied = true.*set own_experts = 0"):
        wired({**PLE, "tied": True}, reads=[0])
