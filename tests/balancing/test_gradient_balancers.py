"""Balancers that read gradients, against independent references and the invariants of their papers."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from peterrec.balancing.gradient_rows import GradientRows
from peterrec.balancing.methods import Balanced, make_balancer
from peterrec.balancing.pe_ltr import shortest_mix
from peterrec.balancing.torchjd_door import weightings
from peterrec.balancing_recipe import OF_GRADIENTS, Balancing
from peterrec.errors import SettingsError

SHAPES = [(4, 3), (5,), (2, 2, 2)]
HERE = [name for name in OF_GRADIENTS if name != "cagrad"]  # its packages are no dependency


def rows_of(gradients) -> GradientRows:
    """Rows that hold `gradients`, a list of T lists of P arrays."""
    parameters = [torch.nn.Parameter(torch.zeros(each.shape)) for each in gradients[0]]
    rows = GradientRows(parameters, objectives=len(gradients))
    rows.clear()
    for number, of_objective in enumerate(gradients):
        rows.open(number)
        for parameter, gradient in zip(parameters, of_objective, strict=True):
            parameter.grad += torch.as_tensor(gradient, dtype=torch.float32)
    rows.close()
    return rows


def drawn(number, *, seed=0, scales=None):
    rng = np.random.default_rng(seed)
    scales = np.ones(number) if scales is None else scales
    return [[scale * rng.normal(size=shape) for shape in SHAPES] for scale in scales]


def flat(gradients):
    return np.stack([np.concatenate([part.ravel() for part in one]) for one in gradients])


def made(name, number, *, tensors=3, **options):
    names = [f"t{n}" for n in range(number)]
    return make_balancer(name, Balanced(names, [False] * number, tensors), options=Balancing.model_validate(options))


def combined(rows, coefficients):
    rows.combine(coefficients)
    return np.concatenate([p.grad.numpy().ravel() for p in rows.parameters])


def test_rows_add_up_and_combine_with_what_is_not_balanced():
    gradients = drawn(3)
    rows = rows_of(gradients)
    np.testing.assert_allclose(rows.gramian([0, 1, 2]), flat(gradients) @ flat(gradients).T, rtol=1e-5)
    norms = [[np.linalg.norm(one[at]) for one in gradients] for at in range(len(SHAPES))]
    np.testing.assert_allclose(rows.norms(), norms, rtol=1e-5)
    rows.open(3)
    for parameter in rows.parameters:
        parameter.grad += 1.0
    rows.close()
    coefficients = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.5]])
    rows.combine(coefficients)
    for at, parameter in enumerate(rows.parameters):
        expected = 1 + sum(c * one[at] for c, one in zip(coefficients[at].numpy(), gradients, strict=True))
        np.testing.assert_allclose(parameter.grad, expected, rtol=1e-4, atol=1e-5)


# MetaBalance


def test_metabalance_with_relax_0_is_the_sum():
    gradients = drawn(3, scales=[1, 50, 0.01])
    rows = rows_of(gradients)
    coefficients = made("metabalance", 3, relax=0).coefficients(rows, present=[True] * 3)
    np.testing.assert_allclose(combined(rows, coefficients), flat(gradients).sum(0), rtol=1e-4, atol=1e-4)


def test_metabalance_with_relax_1_makes_norms_equal_on_each_tensor():
    rows = rows_of(drawn(3, scales=[1, 50, 0.01]))
    coefficients = made("metabalance", 3, relax=1, target="t1").coefficients(rows, present=[True] * 3)
    norms = rows.norms() * coefficients
    np.testing.assert_allclose(norms, norms[:, 1:2].expand(-1, 3), rtol=1e-4)


@pytest.mark.parametrize("strategy", ["A", "B", "C"])
def test_metabalance_against_a_plain_loop(strategy):
    balancer = made("metabalance", 3, relax=0.6, memory=0.8, strategy=strategy, target="t2")
    averages = np.zeros((len(SHAPES), 3))
    for step in range(5):
        gradients = drawn(3, seed=step, scales=[1, 5, 0.5])
        found = balancer.coefficients(rows_of(gradients), present=[True] * 3).numpy()
        for at, number in itertools.product(range(len(SHAPES)), range(3)):
            averages[at, number] *= 0.8
            averages[at, number] += 0.2 * np.linalg.norm(gradients[number][at])
        for at, number in itertools.product(range(len(SHAPES)), range(3)):
            own, target = averages[at, number], averages[at, 2]
            acts = {"A": own > target, "B": own < target, "C": True}[strategy]
            assert found[at, number] == pytest.approx(0.6 * target / own + 0.4 if acts else 1.0, rel=1e-4)


def test_metabalance_an_absence_spoils_no_ratio():
    """Averages that start at zero cancel only where all objectives have had as many steps."""
    balancer = made("metabalance", 2, relax=1, memory=0.9)
    gradients = drawn(2, scales=[1, 4])
    for _ in range(3):
        balancer.coefficients(rows_of([gradients[0], [0 * g for g in gradients[1]]]), present=[True, False])
    late = balancer.coefficients(rows_of(gradients), present=[True, True])
    norms = rows_of(gradients).norms()
    np.testing.assert_allclose(late[:, 1], norms[:, 0] / norms[:, 1], rtol=1e-4)


# GradNorm


def test_gradnorm_lowers_the_published_sum_and_keeps_the_weights_sum():
    balancer = made("gradnorm", 3, alpha=1.2, start=2, learning_rate=0.01)
    present, losses = [True] * 3, [torch.tensor([2.0, 1.0, 0.5]), torch.tensor([1.0, 1.0, 0.5])]
    gradients = drawn(3, scales=[1, 10, 0.3])
    for loss in losses:
        balancer.coefficients(rows_of(gradients), present=present)
        balancer.update(loss, present=present)
    assert balancer.weights().tolist() == [1.0, 1.0, 1.0]
    first = torch.stack(losses).mean(0).numpy()
    now = np.array([0.5, 0.9, 0.4])
    for _ in range(3):
        w = balancer.weights().clone()
        scaled = [[float(w[n]) * part for part in one] for n, one in enumerate(gradients)]
        balancer.coefficients(rows_of(scaled), present=present)
        norms = torch.tensor([np.linalg.norm(row) for row in flat(gradients)])
        rate = now / first / (now / first).mean()
        leaf = w.double().requires_grad_()
        lengths = leaf * norms
        (lengths - (lengths.detach().mean() * torch.tensor(rate) ** 1.2)).abs().sum().backward()
        before = balancer.adam.first.clone()
        balancer.update(torch.tensor(now, dtype=torch.float32), present=present)
        slope = (balancer.adam.first - 0.9 * before) / 0.1
        torch.testing.assert_close(slope.double(), leaf.grad, rtol=1e-3, atol=1e-4)
        assert balancer.weights().sum().item() == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize(("alpha", "ratio"), [(0.0, 1.0), (1.0, 2.0), (2.0, 4.0)])
def test_gradnorm_brings_norms_to_the_speeds_to_the_power_of_alpha(alpha, ratio):
    """One objective has half its loss left, the other all of it."""
    balancer = made("gradnorm", 2, alpha=alpha, start=1, learning_rate=0.02)
    gradients = drawn(2, scales=[1, 5])
    for step in range(400):
        w = balancer.weights().tolist()
        rows = rows_of([[w[n] * part for part in one] for n, one in enumerate(gradients)])
        balancer.coefficients(rows, present=[True, True])
        balancer.update(torch.tensor([1.0, 0.5 if step else 1.0]), present=[True, True])
    lengths = balancer.weights().numpy() * np.linalg.norm(flat(gradients), axis=1)
    assert lengths[0] / lengths[1] == pytest.approx(ratio, rel=0.25)


# PE-LTR


def exact_of_two(gramian, floor):
    """The closed form on a segment."""
    a, b, c = gramian[0, 0], gramian[1, 1], gramian[0, 1]
    free = 0.5 if a + b - 2 * c == 0 else (b - c) / (a + b - 2 * c)
    first = float(np.clip(free, floor, 1 - floor))
    return np.array([first, 1 - first])


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(8))
def test_pe_ltr_of_two_is_the_exact_solution(seed, floor):
    gradients = flat(drawn(2, seed=seed, scales=[1, 3 ** (seed - 4)]))
    gramian = gradients @ gradients.T
    found = shortest_mix(torch.from_numpy(gramian), floor=floor).numpy()
    np.testing.assert_allclose(found, exact_of_two(gramian, floor), atol=1e-6)


@pytest.mark.parametrize("number", [3, 5])
@pytest.mark.parametrize("floor", [0.0, 0.08])
def test_pe_ltr_of_several_is_what_a_solver_finds(number, floor):
    for seed in range(4):
        gradients = flat(drawn(number, seed=seed, scales=np.random.default_rng(seed).uniform(0.3, 3, number)))
        gramian = gradients @ gradients.T
        found = shortest_mix(torch.from_numpy(gramian), floor=floor).numpy()
        assert found.sum() == pytest.approx(1)
        assert (found >= floor - 1e-9).all()
        solved = minimize(
            lambda w, g=gramian: w @ g @ w,
            np.full(number, 1 / number),
            bounds=[(floor, 1)] * number,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert found @ gramian @ found <= solved.fun * (1 + 1e-6)
        np.testing.assert_allclose(found, solved.x, atol=2e-3)


def test_pe_ltr_of_collinear_gradients_is_finite():
    ones = torch.ones(4, 4)
    found = shortest_mix(ones, floor=0.1)
    assert torch.isfinite(found).all()
    assert found.sum().item() == pytest.approx(1)
    assert shortest_mix(torch.zeros(3, 3), floor=0.0).sum().item() == pytest.approx(1)


def test_pe_ltr_refuses_more_objectives_than_it_can_try():
    with pytest.raises(SettingsError, match="at most 10 objectives"):
        made("pe_ltr", 11, floor=0)


# torchjd, and all of them


def test_pcgrad_takes_the_conflict_out_of_two():
    gradients = [[np.array([1.0, 0.0])], [np.array([-1.0, 1.0])]]
    rows = rows_of(gradients)
    found = combined(rows, made("pcgrad", 2, tensors=1).coefficients(rows, present=[True, True]))
    g1, g2 = flat(gradients)
    expected = (g1 - g1 @ g2 / (g2 @ g2) * g2) + (g2 - g1 @ g2 / (g1 @ g1) * g1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_upgrad_harms_no_objective():
    pytest.importorskip("quadprog")
    for seed in range(5):
        gradients = drawn(3, seed=seed, scales=[1, 4, 0.5])
        rows = rows_of(gradients)
        found = combined(rows, made("upgrad", 3).coefficients(rows, present=[True] * 3))
        lengths = np.linalg.norm(flat(gradients), axis=1) * np.linalg.norm(found)
        assert (flat(gradients) @ found >= -2e-3 * lengths).all()


@pytest.mark.parametrize("name", HERE)
def test_equal_gradients_of_one_length_come_to_their_sum(name):
    """Orthogonal ones, so that nothing conflicts; all start from even weights."""
    gradients = [[np.eye(3)[n] * 0.7] for n in range(3)]
    rows = rows_of(gradients)
    balancer = made(name, 3, tensors=1)
    found = combined(rows, balancer.coefficients(rows, present=[True] * 3))
    np.testing.assert_allclose(found / found[0], np.ones(3), rtol=2e-2)
    if name != "fairgrad":  # whose weights have the unit of 1 / length
        np.testing.assert_allclose(found, 0.7 * np.ones(3), rtol=2e-2)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("case", ["zero", "all zero", "absent", "alone"])
def test_zero_gradients_and_absent_objectives_are_finite_and_spoil_nothing(name, case):
    gradients = drawn(3)
    zero = {"zero": (1,), "all zero": (0, 1, 2), "absent": (1,), "alone": (1, 2)}[case]
    for number in zero:
        gradients[number] = [0 * part for part in gradients[number]]
    present = [case == "zero" or case == "all zero" or number not in zero for number in range(3)]
    balancer = made(name, 3)
    for _ in range(25):
        rows = rows_of(gradients)
        coefficients = balancer.coefficients(rows, present=present)
        found = combined(rows, coefficients)
        losses = torch.tensor([0.5 if one else float("nan") for one in present])
        balancer.update(losses, present=present)
        assert np.isfinite(found).all()
        assert torch.isfinite(balancer.weights()).all()
        assert np.linalg.norm(found) > 1e-3 or case == "all zero"
    if case == "alone":
        np.testing.assert_allclose(found, flat(gradients)[0], rtol=1e-5)
    assert all(torch.isfinite(value).all() for value in balancer.state().values())


@pytest.mark.parametrize("name", HERE)
def test_numbers_that_are_not_finite_reach_the_update_which_refuses_them(name):
    gradients = drawn(2)
    gradients[0][0][0] = np.nan
    rows = rows_of(gradients)
    found = combined(rows, made(name, 2).coefficients(rows, present=[True, True]))
    assert not np.isfinite(found).all()


def test_every_method_of_the_door_needs_gradients():
    assert set(weightings()) < set(OF_GRADIENTS)
