"""Published systems against their equations in numpy, and what all bodies hold to."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from peterrec.body_recipe import BodyLayer
from peterrec.errors import SettingsError
from peterrec.mlp import RowLinear
from peterrec.routing import Body
from peterrec.tuners.star.star_linear import add_star

SYSTEMS: dict[str, list[dict[str, object]]] = {
    "shared_bottom": [{"experts": 1}],
    "soft_sharing": [{"own_experts": 1, "penalty": 0.1}],
    "cross_stitch": [{"router": "linear", "own_experts": 1}] * 2,
    "cross_stitch_per_channel": [{"router": "linear", "own_experts": 1, "per_channel": True}],
    "omoe": [{"router": "softmax", "experts": 3, "tied": True}],
    "mmoe": [{"router": "softmax", "experts": 3}],
    "sparsely_gated": [{"router": "softmax", "experts": 4, "top_k": 2}],
    "stacked_mmoe": [{"router": "softmax", "experts": 3}] * 2,
    "ple": [{"router": "softmax", "experts": 2, "own_experts": 2}] * 2,
    "snr_aver": [{"router": "hard_concrete", "experts": 3, "penalty": 0.1}] * 2,
    "snr_trans": [{"router": "hard_concrete", "experts": 3, "transform": True, "penalty": 0.1}] * 2,
    "conet": [{"router": "matrix", "own_experts": 1, "hidden": (6, 4), "penalty": 0.1}] * 2,
    "snr_below_ple": [
        {"router": "hard_concrete", "experts": 2},
        {"router": "softmax", "experts": 1, "own_experts": 1},
    ],
    "shared_below_mmoe": [{"experts": 1}, {"router": "softmax", "experts": 2}],
    "own_below_cross_stitch": [{"own_experts": 1}, {"router": "linear", "own_experts": 1}],
}


@pytest.fixture(params=SYSTEMS)
def system(request, body) -> Body:
    layers = [{"hidden": (6, 4), **layer} for layer in SYSTEMS[request.param]]
    return body(*layers, outputs=3)


def test_shared_bottom(body, expert, x):
    built = body({"experts": 1, "hidden": (6, 4)})
    top = built(x)[-1].detach().numpy()
    np.testing.assert_allclose(top, np.stack([expert(built, 0, 0, x.numpy())] * 2, 1), rtol=1e-10)


def test_separate_towers(body, expert, x):
    built = body({"own_experts": 1}, {"own_experts": 1, "hidden": (3,)})
    top = built(x)[-1].detach().numpy()
    for m in range(2):
        np.testing.assert_allclose(top[:, m], expert(built, 1, m, expert(built, 0, m, x.numpy())), rtol=1e-10)


@pytest.mark.parametrize("per_channel", [False, True])
def test_cross_stitch(body, expert, numbers, x, per_channel):
    layer = {"router": "linear", "own_experts": 1, "hidden": (4,), "per_channel": per_channel}
    built = body(layer, layer, outputs=3)
    branches = [x.numpy()] * 3
    for level in range(2):
        mapped = [expert(built, level, m, branches[m]) for m in range(3)]
        alpha = numbers(built)(f"layers.{level}.router.weight")
        branches = [sum(alpha[k, m] * mapped[m] for m in range(3)) for k in range(3)]
    np.testing.assert_allclose(built(x)[-1].detach().numpy(), np.stack(branches, 1), rtol=1e-9)


def test_omoe_and_mmoe(body, expert, gate, x):
    for tied in (True, False):
        built = body({"router": "softmax", "experts": 3, "hidden": (4,), "tied": tied})
        mapped = [expert(built, 0, e, x.numpy()) for e in range(3)]
        top = built(x)[-1].detach().numpy()
        assert top.shape == (7, 2, 4)
        for m in range(2):
            weights = gate(built, 0, 0 if tied else m, x.numpy())
            wanted = sum(weights[:, e : e + 1] * mapped[e] for e in range(3))
            np.testing.assert_allclose(top[:, m], wanted, rtol=1e-6)


def test_sparsely_gated(body, expert, numbers, x):
    built = body({"router": "softmax", "experts": 4, "hidden": (4,), "top_k": 2})
    mapped = [expert(built, 0, e, x.numpy()) for e in range(4)]
    top = built(x)[-1].detach().numpy()
    for m in range(2):
        logits = x.numpy() @ numbers(built)(f"layers.0.router.linears.{m}.weight").T
        for row in range(7):
            kept = np.argsort(logits[row])[-2:]
            raised = np.exp(logits[row, kept])
            wanted = sum(w * mapped[e][row] for w, e in zip(raised / raised.sum(), kept, strict=True))
            np.testing.assert_allclose(top[row, m], wanted, rtol=1e-6)


def test_ple_of_two_levels(body, expert, gate, x):
    built = body(*[{"router": "softmax", "experts": 2, "own_experts": 2, "hidden": (4,)}] * 2)
    shared, own = x.numpy(), [x.numpy()] * 2
    for level in range(2):
        # experts 0 and 1 are shared, 2 and 3 of output 0, 4 and 5 of output 1
        by_shared = [expert(built, level, e, shared) for e in (0, 1)]
        by_own = [[expert(built, level, 2 + 2 * m + e, own[m]) for e in (0, 1)] for m in range(2)]
        mixed = []
        for m in range(2):
            weights = gate(built, level, m, own[m])
            assert weights.shape == (7, 4)
            mixed.append(sum(weights[:, e : e + 1] * one for e, one in enumerate([*by_shared, *by_own[m]])))
        if level == 0:
            weights = gate(built, level, 2, shared)
            every = [*by_shared, *by_own[0], *by_own[1]]
            shared = sum(weights[:, e : e + 1] * one for e, one in enumerate(every))
        own = mixed
    lower, top = built(x)
    np.testing.assert_allclose(top.detach().numpy(), np.stack(own, 1), rtol=1e-6)
    assert lower.shape == (7, 3, 4)
    np.testing.assert_allclose(lower[:, 2].detach().numpy(), shared, rtol=1e-6)
    assert not hasattr(built.layers[1].router.linears, "2")  # nobody would read a shared branch of the top


@pytest.mark.parametrize("transform", [False, True])
def test_snr(body, expert, numbers, x, transform):
    layer = {"router": "hard_concrete", "experts": 3, "hidden": (4,), "transform": transform}
    built = body(layer, layer)
    branches = [x.numpy()] * 3
    for level, count in enumerate((3, 2)):
        mapped = [expert(built, level, e, branches[e]) for e in range(3)]
        log_alpha = numbers(built)(f"layers.{level}.router.log_alpha")
        assert log_alpha.shape == (count, 3)  # one a connection
        z = np.clip(1.2 / (1 + np.exp(-log_alpha)) - 0.1, 0, 1)
        branches = []
        for j in range(count):
            parts = mapped
            if transform:
                matrix = numbers(built)(f"layers.{level}.router.transforms.{j}.weight")
                parts = [mapped[i] @ matrix[:, 4 * i : 4 * i + 4].T for i in range(3)]
            branches.append(sum(z[j, i] * parts[i] for i in range(3)))
    np.testing.assert_allclose(built(x)[-1].detach().numpy(), np.stack(branches, 1), rtol=1e-9)


@pytest.mark.parametrize("layers", [[(6, 4)], [(6,), (4,)]])
def test_conet(body, numbers, x, layers):
    built = body(*[{"router": "matrix", "own_experts": 1, "hidden": hidden} for hidden in layers])
    own = [x.numpy()] * 2
    for number, hidden in enumerate(layers):
        for level in range(len(hidden)):
            cross = numbers(built)(f"layers.{number}.router.cross.{level}.weight")
            mapped = []
            for m in range(2):
                name = f"layers.{number}.experts.{m}.linears.{level}"
                weight, bias = (numbers(built)(f"{name}.{part}") for part in ("weight", "bias"))
                mapped.append(np.maximum(own[m] @ weight.T + bias + own[1 - m] @ cross.T, 0))
            own = mapped
    np.testing.assert_allclose(built(x)[-1].detach().numpy(), np.stack(own, 1), rtol=1e-9)


def test_mmoe_of_one_expert_is_shared_bottom(body, x):
    mmoe = body({"router": "softmax", "experts": 1})
    shared = body({"experts": 1})
    shared.layers[0].experts.load_state_dict(mmoe.layers[0].experts.state_dict())
    assert_close(mmoe(x)[-1], shared(x)[-1])


def test_permuting_rows_permutes_outputs(system, x):
    system.train()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(5)
    straight = system(x)
    torch.manual_seed(5)
    for one, other in zip(system(x[order]), straight, strict=True):
        assert_close(one, other[order])


def test_a_batch_of_one(system, x):
    for alone, among in zip(system(x[2:3]), system(x), strict=True):
        assert_close(alone, among[2:3])


def test_shapes_and_branches(system, x):
    given = system(x)
    assert [branches.shape[2] for branches in given] == system.widths
    assert given[-1].shape == (7, 3, 4)
    assert [system.branch(-1, m) for m in range(3)] == [0, 1, 2]


def test_every_parameter_learns_and_is_saved(system, x):
    system.train()
    (sum(branches.square().sum() for branches in system(x)[-1:]) + system.penalty()).backward()
    names = {name for name, parameter in system.named_parameters() if parameter.grad is not None}
    assert names == set(system.state_dict())


def test_every_linear_map_is_told_the_domains(system, x):
    told: list[torch.Tensor | None] = []
    maps = [module for module in system.modules() if isinstance(module, RowLinear)]
    assert maps
    assert not [m for m in system.modules() if isinstance(m, torch.nn.Linear) and not isinstance(m, RowLinear)]
    for module in maps:
        module.register_forward_hook(
            lambda module, args, options, y: told.append(options.get("domain_ids")), with_kwargs=True
        )
    domains = torch.arange(7) % 2
    system(x, domain_ids=domains)
    assert len(told) == len(maps)
    assert all(one is domains for one in told)


def test_weights_a_domain_take_the_place_of_every_linear_map(system, x):
    system.float()
    x, domains = x.float(), torch.tensor([0, 1, -1, 1, 0, 0, 1])
    before, penalty = system(x), system.penalty()
    add_star(system, num_domains=2, form="full", rank=4)
    after = system(x, domain_ids=domains)
    for one, other in zip(after, before, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for name, parameter in system.named_parameters():
            if "deviation" in name:
                parameter[1] += 0.5
    moved = system(x, domain_ids=domains)[-1]
    assert_close(moved[domains != 1], after[-1][domains != 1])
    assert not torch.isclose(moved[domains == 1], after[-1][domains == 1]).all(dim=(1, 2)).any()
    assert (system.penalty() - penalty).abs() < 1e-4 * penalty.abs().clamp(min=1)


def test_bfloat16(system, x):
    system.float().train()
    torch.manual_seed(2)
    exact = system(x.float())[-1]
    torch.manual_seed(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        top = system(x.float())[-1]
        penalty = system.penalty()
    assert top.dtype == torch.bfloat16
    assert penalty.dtype == torch.float32
    (top.float().sum() + penalty).backward()
    assert all(p.grad.isfinite().all() for p in system.parameters() if p.grad is not None)
    assert (top.float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("system", ["sparsely_gated", "ple", "snr_trans", "conet"], indirect=True)
def test_compiles_without_a_break(system, x):
    torch.compiler.reset()
    compiled = torch.compile(system, backend="eager", fullgraph=True)
    for one, other in zip(compiled(x), system(x), strict=True):
        assert_close(one, other)


def test_heads_on_lower_layers(body, expert, gate, x):
    layer = {"router": "softmax", "experts": 1, "own_experts": 1, "hidden": (4,)}
    built = body(layer, {**layer, "hidden": (3,)}, outputs=3, reads=[-1, 0, -1])
    lower, top = built(x)
    assert top.shape == (7, 2, 3)
    assert [built.branch(-1, 0), built.branch(1, 2), built.branch(0, 1)] == [0, 1, 1]
    weights = gate(built, 0, 1, x.numpy())
    wanted = sum(weights[:, i : i + 1] * expert(built, 0, e, x.numpy()) for i, e in enumerate((0, 2)))
    np.testing.assert_allclose(lower[:, built.branch(0, 1)].detach().numpy(), wanted, rtol=1e-6)
    assert len(built.layers[1].experts) == 3  # a shared one, and those of the two outputs that read the top
    with pytest.raises(SettingsError, match="layer 1 has no vector for the head of output 1"):
        built.branch(1, 1)


def test_a_head_on_a_lower_snr_layer_has_connections_of_its_own(body, x):
    layer = {"router": "hard_concrete", "experts": 2, "hidden": (4,)}
    built = body(layer, layer, reads=[0, 1])
    assert built.branch(0, 0) == 2  # behind the branches of the two experts above
    assert built(x)[0].shape == (7, 3, 4)
    assert built(x)[1].shape == (7, 1, 4)
    without = body(layer, layer)
    with pytest.raises(SettingsError, match="say which layer each head reads"):
        without.branch(0, 0)


def test_penalties_add_up_by_their_weights(body):
    layer = {"router": "hard_concrete", "experts": 2}
    built = body({**layer, "penalty": 0.5}, {**layer, "penalty": 2.0})
    lower, upper = (one.router.open_probability().sum() for one in built.layers)
    assert_close(built.penalty(), 0.5 * lower + 2 * upper)
    none = body(layer, {"router": "softmax", "experts": 2})
    assert none.penalty().item() == 0
    assert none.penalty().shape == ()


def test_logs(body, x):
    built = body({"router": "softmax", "experts": 2}, {"router": "hard_concrete", "experts": 3})
    built(x)
    found = built.gates()
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "0.weights": (1, 2),
        "0.entropy": (1,),
        "1.weights": (2, 3),
        "1.open": (2, 3),
    }
    assert not any(value.requires_grad for value in found.values())


def test_dropout_is_that_of_the_recipe(x):
    for router, experts in (("one_hot", {"experts": 1}), ("matrix", {"own_experts": 1})):
        built = Body([BodyLayer(router=router, hidden=(400,), dropout=0.75, **experts)], channels=5, outputs=2)
        with torch.no_grad():
            for name, parameter in built.named_parameters():
                parameter.fill_(1.0 if name.endswith("bias") else 0.0)
        kept = built(x.float())[-1]
        assert set(kept.unique().tolist()) == {0.0, 4.0}
        assert 0.2 < (kept > 0).float().mean() < 0.3
        assert built.eval()(x.float())[-1].unique().tolist() == [1.0]
