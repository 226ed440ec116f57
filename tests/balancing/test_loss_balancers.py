"""Balancers that read losses alone, against their equations."""

import numpy as np
import pytest
import torch

from peterrec.balancing.dwa import DWA
from peterrec.balancing.entry_adam import EntryAdam
from peterrec.balancing.methods import OWN, Balanced, make_balancer
from peterrec.balancing.torchjd_door import weightings
from peterrec.balancing.uncertainty import Uncertainty
from peterrec.balancing_recipe import OF_BALANCER, OF_GRADIENTS, BalancerName, Balancing, check_balancing
from peterrec.errors import RefusedError, SettingsError

BOTH = (True, True)
NAMES: tuple[BalancerName, ...] = BalancerName.__args__


def steps(balancer, losses, *, present=BOTH):
    """The weights before each step of `losses`, and after the last."""
    found = [balancer.weights().tolist()]
    for each in losses:
        balancer.update(torch.tensor(each), present=present)
        found.append(balancer.weights().tolist())
    return np.array(found)


def of(*names: str, squared=None, tensors=1) -> Balanced:
    return Balanced(names, [False] * len(names) if squared is None else squared, tensors)


def test_every_name_has_a_method():
    assert {*OWN, *weightings(), "sum"} == set(NAMES)
    assert set(OF_GRADIENTS) == set(NAMES) - {"sum", "static", "uncertainty", "dwa"}


def test_adam_on_entries_is_torchs_and_leaves_absent_ones():
    rng = np.random.default_rng(0)
    ours, adam = torch.tensor([0.3, -1.0, 2.0]), EntryAdam(3, learning_rate=0.05)
    theirs = [torch.nn.Parameter(value.clone()) for value in ours]
    optimizers = [torch.optim.Adam([one], lr=0.05) for one in theirs]
    for step in range(30):
        gradient = torch.from_numpy(rng.normal(size=3)).float()
        mask = torch.tensor([True, step % 3 == 0, step % 2 == 1])
        ours = adam.step(ours, gradient, mask=mask)
        for one, optimizer, slope, on in zip(theirs, optimizers, gradient, mask, strict=True):
            if on:
                one.grad = slope.clone()
                optimizer.step()
        torch.testing.assert_close(ours, torch.stack([one.detach() for one in theirs]))


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("loss", [0.02, 0.1, 3.0])
def test_uncertainty_comes_to_one_over_twice_a_loss_that_stays(squared, loss):
    balancer = Uncertainty([squared, squared], learning_rate=0.05)
    for _ in range(600):
        balancer.update(torch.tensor([loss, loss]), present=BOTH)
    assert balancer.weights().tolist() == pytest.approx([1 / (2 * loss)] * 2, rel=1e-3)


def test_uncertainty_learns_along_the_gradient_of_the_published_loss():
    balancer, losses = Uncertainty([False, True], learning_rate=0.01), torch.tensor([0.7, 0.2])
    s = torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam([s], lr=0.01)
    for _ in range(20):
        adam.zero_grad()
        classification = torch.exp(-s[0]) * losses[0] + s[0] / 2
        regression = torch.exp(-s[1]) * losses[1] / 2 + s[1] / 2
        (classification + regression).backward()
        adam.step()
        balancer.update(losses, present=BOTH)
    torch.testing.assert_close(balancer.s, s.detach())
    torch.testing.assert_close(balancer.weights(), torch.stack([torch.exp(-s[0]), torch.exp(-s[1]) / 2]).detach())


def test_dwa_compares_windows_of_steps():
    rng = np.random.default_rng(1)
    losses = rng.uniform(0.2, 2.0, size=(12, 2)).astype(np.float32)
    weights = steps(DWA(2, window=4, temperature=2.0), losses)
    assert (weights[:8] == 1).all()
    means = losses.reshape(3, 4, 2).mean(1)
    for at, (before, last) in ((8, (0, 1)), (12, (1, 2))):
        ratio = np.exp(means[last] / means[before] / 2.0)
        np.testing.assert_allclose(weights[at], 2 * ratio / ratio.sum(), rtol=1e-5)
    np.testing.assert_allclose(weights[8:12], np.broadcast_to(weights[8], (4, 2)))


def test_dwa_with_window_0_compares_epochs():
    balancer = DWA(2, window=0, temperature=1.0)
    for loss in ([4.0, 1.0], [2.0, 1.0]):
        steps(balancer, [loss, loss])
        balancer.end_epoch()
    ratio = np.exp([0.5, 1.0])
    np.testing.assert_allclose(balancer.weights().numpy(), 2 * ratio / ratio.sum(), rtol=1e-6)


@pytest.mark.parametrize("name", ["uncertainty", "dwa", "gradnorm"])
def test_an_absent_objective_changes_nothing_of_its_own(name):
    """What its loss is said to be, NaN included, is not read."""
    balancer = make_balancer(name, of("a", "b"), options=Balancing(window=3) if name == "dwa" else Balancing())
    steps(balancer, [[0.5, 0.9]] * 4)
    before = {key: value.clone() for key, value in balancer.state().items()}
    weights = steps(balancer, [[0.5, float("nan")]] * 2, present=(True, False))
    assert np.isfinite(weights).all()
    for key, value in balancer.state().items():
        assert torch.isfinite(value).all(), key
        if value.shape == (2,) and name != "dwa":
            assert value[1] == before[key][1], key
    if name == "dwa":
        assert balancer.counts.tolist() == [0, 0] or balancer.counts[1] <= before["counts"][1]


def test_static_weights_are_those_of_the_recipe():
    balancer = make_balancer("static", of("ctr", "cvr", "like"), options=Balancing(weights={"cvr": 0.25, "like": 0}))
    assert balancer.weights().tolist() == [1.0, 0.25, 0.0]


def test_the_epochs_mean_weight_counts_the_steps_that_had_the_objective():
    balancer = make_balancer("static", of("a", "b"), options=Balancing(weights={"a": 2.0}))
    balancer.tell(torch.tensor([2.0, 1.0]), present=(True, True))
    balancer.tell(torch.tensor([4.0, float("nan")]), present=(True, False))
    assert balancer.end_epoch() == {0: 3.0, 1: 1.0}
    assert balancer.end_epoch() == {}


def test_a_state_comes_back_and_another_balancers_is_refused():
    first = make_balancer("dwa", of("a", "b"), options=Balancing(window=3))
    second = make_balancer("dwa", of("a", "b"), options=Balancing(window=3))
    rows = np.random.default_rng(2).uniform(0.1, 1, size=(20, 2)).astype(np.float32)
    steps(first, rows[:11])
    second.load_state({key: value.clone() for key, value in first.state().items()})
    assert np.array_equal(steps(first, rows[11:]), steps(second, rows[11:]))
    with pytest.raises(RefusedError, match="another balancer"):
        second.load_state(make_balancer("uncertainty", of("a", "b"), options=Balancing()).state())


@pytest.mark.parametrize("key", OF_BALANCER)
def test_an_option_of_another_balancer_is_refused(key):
    other = {
        "weights": {"a": 2.0},
        "target": "a",
        "strategy": "A",
        "tables": True,
        "window": 7,
        "start": 7,
        "relax": 0.1,
        "memory": 0.1,
        "floor": 0.1,
    }
    options = Balancing.model_validate({key: other.get(key, 0.123)})
    for name in NAMES:
        if name in OF_BALANCER[key]:
            check_balancing(name, options)
        else:
            with pytest.raises(ValueError, match=f"balancing.{key} belongs to balancer = '{OF_BALANCER[key][0]}'"):
                check_balancing(name, options)


def test_static_without_weights_is_refused():
    with pytest.raises(ValueError, match=r"needs balancing\.weights"):
        check_balancing("static", Balancing())


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("static", {"weights": {"crt": 2.0}}, "no objective 'crt'.*ctr"),
        ("metabalance", {"target": "crt"}, "no objective 'crt'.*ctr"),
        ("pe_ltr", {"floor": 0.6}, "cannot all weigh as much"),
    ],
)
def test_options_that_do_not_fit_the_objectives_are_refused(name, options, says):
    with pytest.raises(SettingsError, match=says):
        make_balancer(name, of("ctr", "cvr"), options=Balancing.model_validate(options))


def test_one_objective_has_nothing_to_be_balanced_with():
    with pytest.raises(SettingsError, match="there is one objective, 'ctr'"):
        make_balancer("uncertainty", of("ctr"), options=Balancing())


def test_missing_packages_are_named_with_what_brings_them(monkeypatch):
    def missing(options, number):
        raise ImportError("requires quadprog")

    monkeypatch.setattr("peterrec.balancing.torchjd_door.weightings", lambda: {"upgrad": missing})
    with pytest.raises(SettingsError, match=r'requires quadprog.*pip install "peterrec\[projection\]"'):
        make_balancer("upgrad", of("a", "b"), options=Balancing())
