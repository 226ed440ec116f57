"""NMTR, CoNet, SCoNet, DUPN and DeepMCP as whole networks: their equations in numpy, and what must hold of them."""

import numpy as np
import pytest
import torch
from impression_layers import dense, expert, logit, sigmoid, tower
from impression_world import plan_of

from peterrec.body_recipe import BodyLayer
from peterrec.catalogue import impression_task
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import SettingsError
from peterrec.impression_design import build_network
from peterrec.impression_model import ImpressionBatch
from peterrec.impression_transfer import codings_of, fit_codings

ROWS = 60
FIELDS = {"deepmcp": ("user", "item"), "nmtr": ("user", "item"), "dupn": ("user", "item")}
LABELS = {
    "nmtr": ("collect", "cart", "buy"),
    "conet": ("source", "target"),
    "sconet": ("source", "target"),
    "dupn": ("click", "conversion", "dwell", "like", "cart"),
    "deepmcp": ("click",),
}


class Whole:
    """The network of a recipe in evaluation with random weights; `s` are these, `v` the fields' vectors by name."""

    def __init__(self, name, *, task=None, **changes):
        rng = np.random.default_rng(0)
        names = FIELDS.get(name, ("user", "source_item", "target_item"))
        self.values = {one: [f"{one}{n}" for n in rng.integers(0, 7, ROWS)] for one in names}
        click = rng.random(ROWS) < 0.5
        labels = {one: click & (rng.random(ROWS) < 0.6) for one in LABELS[name]} | (
            {"click": click} if "click" in LABELS[name] else {}
        )
        if "dwell" in labels:
            labels["dwell"] = rng.exponential(9.0, ROWS)
        self.impressions = Impressions.of_arrays(labels=labels, categorical=self.values, user=self.values["user"])
        self.plan = plan_of(task or name, self.impressions, **changes)
        coding = fit_codings(self.plan, self.impressions, np.arange(ROWS))
        (self.coding,) = codings_of(self.plan, coding)
        assert self.coding is not None
        torch.manual_seed(1)
        self.network = build_network(self.plan, sizes=self.coding.sizes, bias_sizes=[], channels=None).eval()
        with torch.no_grad():
            for value in self.network.parameters():
                value.normal_(std=1.5 * value.shape[-1] ** -0.5 if value.dim() > 1 else 0.5)
        self.s = {key: value.double().numpy() for key, value in self.network.state_dict().items()}
        vectors = self.network.embeddings(self.coding.batch(self.impressions, np.arange(ROWS)))
        self.v = dict(zip(self.coding.names, vectors.detach().double().numpy().transpose(1, 0, 2), strict=True))
        self.x = np.concatenate([self.v[one] for one in self.coding.names], axis=1)

    def batch(self, rows=None) -> ImpressionBatch:
        rows = np.arange(ROWS) if rows is None else rows
        return ImpressionBatch([self.coding.batch(self.impressions, rows)], torch.full((len(rows),), -1))

    @torch.no_grad()
    def predicted(self, rows=None):
        return {name: value.numpy() for name, value in self.network.predicted(self.batch(rows)).items()}


def close(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert np.std(value) > 1e-3, "says the same of every row, which tests nothing"
        np.testing.assert_allclose(found[name], value, atol=1e-5, rtol=1e-5)


def own_logit(it, head, read):
    """NeuMF: h · [MLP ‖ p ⊙ q] + b, channel by channel."""
    product = it.v["user"] * it.v["item"]
    weight, bias = it.s[f"heads.heads.{head}.output.weight"][0], it.s[f"heads.heads.{head}.output.bias"][0]
    both = np.concatenate([read, product], axis=1)
    return np.array([sum(w * x for w, x in zip(weight, row, strict=True)) for row in both]) + bias


def test_nmtr_adds_the_logits_of_the_behaviours_before():
    it = Whole("nmtr")
    logits, total = {}, 0.0
    for head, name in enumerate(("collect", "cart", "buy")):
        total = total + own_logit(it, head, expert(it.s, 0, head, it.x))
        logits[name] = total
    close(it.predicted(), {name: sigmoid(value) for name, value in logits.items()})
    probabilities = sum(sigmoid(own_logit(it, head, expert(it.s, 0, head, it.x))) for head in range(3))
    assert np.abs(it.predicted()["buy"] - probabilities).max() > 0.05, "logits are added, not probabilities"
    assert sum(one.weight for one in impression_task("nmtr").objectives) == 1.0


def test_nmtr_of_products_alone_is_a_cascade_of_gmf():
    """logit_r = logit_(r-1) + h_r · (p ⊙ q) + b_r, on one embedding of user and item."""
    task = impression_task("nmtr")
    heads = tuple(head.model_copy(update={"layer": "none"}) for head in task.heads)
    it = Whole("nmtr", body=(), heads=heads)
    assert it.network.body is None
    total, expected = 0.0, {}
    for head, name in enumerate(("collect", "cart", "buy")):
        total = total + own_logit(it, head, np.zeros((ROWS, 0)))
        expected[name] = sigmoid(total)
    close(it.predicted(), expected)
    assert it.network.penalty().item() == 0


def test_nmtr_without_products_is_a_cascade_of_mlps():
    heads = tuple(head.model_copy(update={"product": ()}) for head in impression_task("nmtr").heads)
    it = Whole("nmtr", heads=heads)
    own = [logit(it.s, head, expert(it.s, 0, head, it.x)) for head in range(3)]
    close(it.predicted(), {name: sigmoid(sum(own[: n + 1])) for n, name in enumerate(("collect", "cart", "buy"))})


def test_a_purchase_teaches_the_behaviours_before_it():
    it = Whole("nmtr")
    it.network(it.batch())["buy"].log_p.sum().backward()
    for head in range(3):
        assert it.network.heads.heads[head].output.weight.grad.abs().max() > 0


def crossed(it, *, h=1.0):
    """a_m <- max(0, W_m a_m + b_m + H a_n), each from the user and the item of its own domain."""
    s, a = it.s, [np.concatenate([it.v["user"], it.v[f"{name}_item"]], axis=1) for name in ("source", "target")]
    for level in range(3):
        cross = h * s[f"body.layers.0.router.cross.{level}.weight"]
        own = [dense(s, f"body.layers.0.experts.{m}.linears.{level}", a[m]) for m in range(2)]
        a = [np.maximum(own[m] + a[1 - m] @ cross.T, 0) for m in range(2)]
    return {name: sigmoid(logit(s, m, a[m])) for m, name in enumerate(("source", "target"))}


@pytest.mark.parametrize("name", ["conet", "sconet"])
def test_conet_crosses_its_layers_also_when_it_predicts(name):
    it = Whole(name)
    close(it.predicted(), crossed(it))
    assert np.abs(it.predicted()["target"] - crossed(it, h=0.0)["target"]).max() > 0.01
    again = it.network.train()
    for module in again.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    close(it.predicted(), crossed(it))


def test_conet_hears_of_the_other_domain_by_cross_connections_alone():
    it = Whole("conet")
    apart = BodyLayer.model_validate(it.plan.task.body[0].model_dump() | {"router": "one_hot"})
    alone = Whole("conet", body=(apart,))
    for whole, hears in ((it, True), (alone, False)):
        before = whole.predicted()["target"]
        whole.values["source_item"] = whole.values["source_item"][1:] + whole.values["source_item"][:1]
        whole.impressions = Impressions.of_arrays(
            labels=whole.impressions.labels, categorical=whole.values, user=whole.values["user"]
        )
        assert (np.abs(whole.predicted()["target"] - before).max() > 1e-3) == hears


def test_sconet_has_an_l1_penalty_on_the_cross_matrices():
    it = Whole("sconet")
    total = sum(np.abs(it.s[f"body.layers.0.router.cross.{level}.weight"]).sum() for level in range(3))
    assert it.network.penalty().item() == pytest.approx(1e-4 * total, rel=1e-5)
    assert Whole("conet").network.penalty().item() == 0


def test_dupn_has_a_network_a_task_on_one_input():
    it = Whole("dupn")
    it.network.scale_value("dwell", mean=2.0, sd=0.5)
    names = [head.name for head in it.plan.heads]
    raw = {name: tower(it.s, n, expert(it.s, 0, n, it.x)) for n, name in enumerate(names)}
    close(it.predicted(), {n: np.expm1(v * 0.5 + 2.0) if n == "dwell" else sigmoid(v) for n, v in raw.items()})
    assert impression_task("dupn").adapter == "full", "the five tasks train the encoder"
    assert len(names) == 5


def vector(s, name, x):
    """ReLU layers, and tanh in the last."""
    return np.tanh(dense(s, f"{name}.output", np.maximum(dense(s, f"{name}.mlp.linears.0", x), 0)))


def test_deepmcp_matches_by_two_towers_that_end_in_tanh():
    it = Whole("deepmcp")
    it.network.train()
    found = it.network(it.batch())["match"]
    left, right = vector(it.s, "matches.0.left", it.v["user"]), vector(it.s, "matches.0.right", it.v["item"])
    assert (left < 0).any()
    expected = [sum(u * a for u, a in zip(*pair, strict=True)) for pair in zip(left, right, strict=True)]
    np.testing.assert_allclose(found.logit.detach().numpy(), expected, atol=1e-4)


def test_deepmcp_serves_the_prediction_alone():
    it = Whole("deepmcp")
    before = it.predicted()
    close(before, {"ctr": sigmoid(tower(it.s, 0, expert(it.s, 0, 0, it.x)))})
    assert it.network.outputs == ("ctr",)
    assert [one.of for one in it.plan.measures] == ["ctr"]
    with torch.no_grad():
        for part in (it.network.matches, it.network.correlation):
            for value in part.parameters():
                value.add_(1.0)
    np.testing.assert_array_equal(it.predicted()["ctr"], before["ctr"])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("conet", {"router": "one_hot", "experts": 1, "own_experts": 0}, "shared ones"),
        ("conet", {"router": "softmax", "experts": 2, "own_experts": 0}, "shared ones"),
        ("conet", {"router": "hard_concrete", "experts": 2, "own_experts": 0}, "shared ones"),
    ],
)
def test_fields_of_a_head_want_experts_of_its_own(name, changes, message):
    layer = BodyLayer.model_validate(impression_task(name).body[0].model_dump() | changes)
    with pytest.raises(SettingsError, match=message):
        Whole(name, body=(layer,))


def test_names_that_are_no_fields_are_refused():
    task = impression_task("conet")
    heads = (task.heads[0], task.heads[1].model_copy(update={"fields": ("user", "target_itm")}))
    with pytest.raises(SettingsError, match=r"heads.fields of 'target' names 'target_itm'.*target_item"):
        Whole("conet", heads=heads)
    heads = (task.heads[0], task.heads[1].model_copy(update={"fields": ("target_item",)}))
    with pytest.raises(SettingsError, match="names 1 and 2 fields"):
        Whole("conet", heads=heads)
    match = impression_task("deepmcp").matches[0].model_copy(update={"left": ("usr",)})
    with pytest.raises(SettingsError, match=r"matches.left names 'usr'"):
        Whole("deepmcp", matches=(match,))
    correlation = impression_task("deepmcp").correlation.model_copy(update={"label": "klick"})
    with pytest.raises(SettingsError, match=r"correlation\.label names 'klick'"):
        Whole("deepmcp", correlation=correlation)
