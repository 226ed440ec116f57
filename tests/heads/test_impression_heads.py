"""Towers and outputs of several heads, against numpy, and what they take of each other."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from peterrec.errors import SettingsError
from peterrec.heads.compose import compose, parse_derived
from peterrec.heads.impression_heads import ImpressionHeads
from peterrec.heads.tower_head import TowerHead
from peterrec.impression_recipe import Head, Tower
from peterrec.mlp import RowLinear
from peterrec.objectives.impression_losses import masked_sum, row_losses

B, H = 12, 5
TOWER = Tower(hidden=(4, 3))


def build(heads: list[Head], *, tower: Tower = TOWER, widths: list[int] | None = None) -> ImpressionHeads:
    torch.manual_seed(0)
    return ImpressionHeads(heads, tower=tower, widths=widths or [H] * len(heads)).double()


def branches(number: int, *, rows: int = B) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, H, dtype=torch.float64, generator=generator) for _ in range(number)]


def linear(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    assert isinstance(layer, nn.Linear)
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def tower(head: nn.Module, x: np.ndarray) -> np.ndarray:
    assert isinstance(head, TowerHead)
    for layer in head.tower.linears:
        x = np.maximum(linear(layer, x), 0)
    return x


def output(head: nn.Module, x: np.ndarray) -> np.ndarray:
    assert isinstance(head, TowerHead)
    return linear(head.output, x)[:, 0]


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def bce(p: np.ndarray, y: np.ndarray) -> float:
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


def labels(rows: int = B) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    click = (rng.random(rows) < 0.6).astype(float)
    return click, click * (rng.random(rows) < 0.5)


def mean_loss(prediction, label: np.ndarray) -> Tensor:
    y = torch.from_numpy(label)
    total, weight = masked_sum(row_losses("bce", prediction, y), ~y.isnan())
    return total / weight


def test_esmm_in_numpy_and_by_finite_differences():
    """Ma et al. (SIGIR 2018): losses of click, and of click and conversion, on all impressions."""
    heads = build([Head(name="ctr"), Head(name="cvr")])
    x = branches(2)
    click, conversion = labels()
    formula = parse_derived("ctr * cvr", heads.names)

    def found() -> Tensor:
        p = compose(heads(x), {"ctcvr": formula})
        return mean_loss(p["ctr"], click) + mean_loss(p["ctcvr"], conversion)

    def expected() -> float:
        ctr, cvr = (sigmoid(output(h, tower(h, b.numpy()))) for h, b in zip(heads.heads, x, strict=True))
        return bce(ctr, click) + bce(ctr * cvr, conversion)

    loss = found()
    assert loss.item() == pytest.approx(expected(), rel=1e-12)
    loss.backward()
    for parameter in heads.parameters():
        assert parameter.grad is not None
        flat, grad = parameter.data.view(-1), parameter.grad.view(-1)
        for place in {0, len(flat) // 2, len(flat) - 1}:
            at, steps = flat[place].item(), []
            for step in (1e-6, -1e-6):
                flat[place] = at + step
                steps.append(expected())
            flat[place] = at
            assert grad[place].item() == pytest.approx((steps[0] - steps[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_the_loss_of_the_product_trains_both_towers():
    heads = build([Head(name="ctr"), Head(name="cvr")])
    p = compose(heads(branches(2)), {"ctcvr": parse_derived("ctr * cvr", heads.names)})
    mean_loss(p["ctcvr"], labels()[1]).backward()
    for head in heads.heads:
        assert isinstance(head, TowerHead)
        for layer in (head.tower.linears[0], head.output):
            assert isinstance(layer, RowLinear)
            assert layer.weight.grad is not None
            assert layer.weight.grad.abs().max() > 1e-4


def test_dbmtl_in_numpy():
    """Wang et al. (2019): three tasks in a chain, each on what the towers before it found."""
    chain = [
        Head(name="l"),
        Head(name="m", parents=("l",), hidden=(6,)),
        Head(name="n", parents=("l", "m")),
    ]
    heads = build(chain)
    x = branches(3)
    l, m, n = heads.heads  # noqa: E741, the paper's letters
    assert isinstance(m, TowerHead)
    assert isinstance(n, TowerHead)
    assert m.link is not None
    assert n.link is not None
    assert l.link is None
    of_l = tower(l, x[0].numpy())
    of_m = np.maximum(linear(m.link.linears[0], np.hstack([tower(m, x[1].numpy()), of_l])), 0)
    of_n = np.maximum(linear(n.link.linears[0], np.hstack([tower(n, x[2].numpy()), of_l, of_m])), 0)
    assert (of_l.shape[1], of_m.shape[1], of_n.shape[1]) == (3, 6, 3)
    found = heads(x)
    for head, name, features in ((l, "l", of_l), (m, "m", of_m), (n, "n", of_n)):
        np.testing.assert_allclose(found[name].detach(), output(head, features))
    grads = torch.autograd.grad(found["n"].sum(), [each.tower.linears[0].weight for each in (l, m, n)])
    assert all(grad.abs().max() > 0 for grad in grads)
    grads = torch.autograd.grad(heads(x)["l"].sum(), list(m.parameters()), allow_unused=True)
    assert all(grad is None for grad in grads)  # and nothing flows the other way


def test_the_cascade_of_nmtr_in_numpy():
    """Gao et al. (ICDE 2019): a behaviour's logit is that of the one before it, plus its own."""
    names = ["view", "cart", "buy"]
    heads = build(
        [
            Head(name=name, parents=tuple(names[max(number - 1, 0) : number]), link="logits")
            for number, name in enumerate(names)
        ]
    )
    x = branches(3)
    own = [output(head, tower(head, b.numpy())) for head, b in zip(heads.heads, x, strict=True)]
    found = heads(x)
    for number, name in enumerate(names):
        np.testing.assert_allclose(found[name].detach(), np.sum(own[: number + 1], axis=0))
    assert all(head.link is None for head in heads.heads)
    (grad,) = torch.autograd.grad(found["buy"].sum(), heads.heads[0].output.bias)
    assert grad.item() == pytest.approx(B)


def test_a_value_beside_a_probability_under_log_mse():
    torch.manual_seed(0)
    heads = ImpressionHeads(
        [Head(name="ctr"), Head(name="dwell", output="value", parents=("ctr",))], tower=TOWER, widths=[H, H]
    )
    x = [each.float() for each in branches(2, rows=200)]
    click, _ = labels(200)
    seconds = np.where(click == 1, np.exp(2 * x[1][:, 0].numpy() + 1) - 1, np.nan)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.03)
    y = torch.from_numpy(seconds).float()
    losses = []
    for _ in range(150):
        total, weight = masked_sum(row_losses("log_mse", heads(x)["dwell"], y.clamp(min=0)), ~y.isnan())
        optimizer.zero_grad()
        (total / weight).backward()
        optimizer.step()
        losses.append((total / weight).item())
    assert losses[-1] < 0.1 * losses[0]


def test_batches_of_one_and_of_none():
    heads = build([Head(name="a"), Head(name="b", parents=("a",)), Head(name="c", parents=("a",), link="logits")])
    x = branches(3)
    whole = heads(x)
    for rows in (1, 0):
        some = heads([each[:rows] for each in x])
        for name, found in some.items():
            assert found.shape == (rows,)
            torch.testing.assert_close(found, whole[name][:rows])


def test_heads_of_other_widths_and_without_a_tower():
    heads = build([Head(name="values"), Head(name="keys", hidden=())], tower=Tower(hidden=(2,)), widths=[H, 1])
    x = [*branches(1), torch.ones(B, 1, dtype=torch.float64)]
    found = heads(x)
    assert list(found) == ["values", "keys"]  # names that a ModuleDict would refuse
    last = heads.heads[1]
    np.testing.assert_allclose(found["keys"].detach(), output(last, x[1].numpy()))


def test_outputs_stay_in_float32_under_autocast():
    heads = build([Head(name="a"), Head(name="b", parents=("a",))], tower=Tower(hidden=(64,))).float()
    x = [each.float() for each in branches(2, rows=3000)]
    with torch.autocast("cpu", torch.bfloat16):
        found = heads(x)
    for name, exact in heads(x).items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], exact, rtol=0.05, atol=0.05)
        assert len(found[name].unique()) > 2900  # bfloat16 itself has but a few hundred numbers here
        found[name].sum().backward(retain_graph=True)
    assert all(parameter.grad is not None for parameter in heads.parameters())


def test_dropout_stands_in_towers_and_links():
    heads = build([Head(name="a"), Head(name="b", parents=("a",))], tower=Tower(hidden=(64,), dropout=0.5))
    x = branches(2)
    first, second = heads(x), heads(x)
    assert all((first[name] != second[name]).any() for name in "ab")
    assert {module.p for module in heads.modules() if isinstance(module, nn.Dropout)} == {0.5}
    heads.eval()
    torch.testing.assert_close(heads(x), heads(x), rtol=0, atol=0)


def test_domains_reach_every_linear_map():
    heads = build([Head(name="a"), Head(name="b", parents=("a",)), Head(name="c", parents=("b",), link="logits")])
    seen = []

    def watch(module, args, kwargs):
        seen.append((module, kwargs["domain_ids"]))

    maps = [module for module in heads.modules() if isinstance(module, nn.Linear)]
    for module in maps:
        module.register_forward_pre_hook(watch, with_kwargs=True)
    ids = torch.arange(B) % 3 - 1
    heads(branches(3), domain_ids=ids)
    assert {id(module) for module, _ in seen} == {id(module) for module in maps}
    assert all(given is ids for _, given in seen)
    assert all(isinstance(module, RowLinear) for module in maps)


def test_a_probability_adds_no_value():
    wrong = [Head(name="dwell", output="value"), Head(name="ctr", parents=("dwell",), link="logits")]
    with pytest.raises(SettingsError, match=r"'ctr' is a probability and adds the output of 'dwell', a value"):
        build(wrong)
    assert build([wrong[0], Head(name="ctr", parents=("dwell",))])(branches(2))["ctr"].shape == (B,)


def test_it_compiles_in_one_graph():
    heads = build([Head(name="a"), Head(name="b", parents=("a",)), Head(name="c", parents=("b",), link="logits")])
    x = branches(3)
    compiled = torch.compile(heads, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), heads(x))
