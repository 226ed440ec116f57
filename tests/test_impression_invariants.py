"""What must hold of whole networks on impressions, whatever their weights: gradients, domains, positions, rows."""

import numpy as np
import pytest
import torch
from impression_columns import DOMAINS, LABELS, ROWS, TRAIN, Columns
from impression_world import plan_of

from peterrec.catalogue import ImpressionTask, any_task, impression_task, names
from peterrec.impression_design import build_network
from peterrec.impression_model import ImpressionBatch
from peterrec.impression_transfer import codings_of, fit_codings

COLUMNS = Columns()
ALL = np.arange(ROWS)
LINKED = {"nmtr", "conet", "sconet", "dupn", "deepmcp"}  # other fields and labels: test_linked_recipes.py
RECIPES = [name for name in names("tasks") if isinstance(any_task(name), ImpressionTask) and name not in LINKED]


class Whole:
    """The network of a recipe in evaluation; `start`: as it starts, else with random weights everywhere."""

    def __init__(self, name, *, columns=COLUMNS, start=False, seed=0, **changes):
        self.columns = columns
        self.impressions = columns.impressions(labels=LABELS.get(name, ("click", "conversion")))
        self.plan = plan_of(name, self.impressions, **changes)
        self.codings = codings_of(self.plan, fit_codings(self.plan, self.impressions, np.arange(TRAIN)))
        first, *others = self.codings
        torch.manual_seed(seed)
        self.network = build_network(
            self.plan,
            sizes=first.sizes,
            bias_sizes=[None if one is None else one.sizes for one in others],
            channels=None,
        ).eval()
        if not start:
            with torch.no_grad():
                for value in self.network.parameters():
                    value.normal_(std=1.5 * value.shape[-1] ** -0.5 if value.dim() > 1 else 0.5)

    def batch(self, rows=ALL, *, domain=None) -> ImpressionBatch:
        ids = self.columns.domain if domain is None else domain
        fields = [None if one is None else one.batch(self.impressions, rows) for one in self.codings]
        return ImpressionBatch(fields, torch.from_numpy(ids[rows]))

    @torch.no_grad()
    def predicted(self, rows=ALL, *, domain=None):
        return {name: value.numpy() for name, value in self.network.predicted(self.batch(rows, domain=domain)).items()}


def close(one, other, *, rows=slice(None), atol=1e-6):
    assert list(one) == list(other)
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name][rows], atol=atol, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", RECIPES)
def test_no_row_depends_on_the_others_in_evaluation(name):
    whole = Whole(name)
    together = whole.predicted()
    order = np.random.default_rng(1).permutation(ROWS)
    close(whole.predicted(order), together, rows=order)
    for row in (0, 1, int(np.flatnonzero(COLUMNS.domain < 0)[0]), ROWS - 1):
        close(whole.predicted(np.array([row])), together, rows=[row])


@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_of_one_row_trains(name):
    whole = Whole(name)
    whole.network.train()
    outputs = whole.network(whole.batch(np.array([3])))
    total = (
        sum((one.log_p if isinstance(one, tuple) else one).sum() for one in outputs.values()) + whole.network.penalty()
    )
    total.backward()
    found = [value.grad for value in whole.network.parameters() if value.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in found)
    assert sum(grad.abs().sum() for grad in found) > 0


@pytest.mark.parametrize("name", ["esmm", "mmoe_esmm", "esm2", "shared_bottom", "dbmtl"])
def test_the_loss_of_conversions_trains_every_tower(name):
    """None of the factors of a product is detached."""
    whole = Whole(name)
    outputs = whole.network(whole.batch())
    label = torch.from_numpy(COLUMNS.labels["conversion"]).float()
    odds = outputs["ctcvr"]
    loss = -(label * odds.log_p + (1 - label) * odds.log_not_p).mean()
    loss.backward()
    for number, head in enumerate(whole.network.heads.heads):
        for part, value in head.named_parameters():
            assert value.grad is not None, (number, part)
            assert value.grad.abs().max() > 1e-6, (number, part)
    # by hand: for the loss -y ln(pq) - (1 - y) ln(1 - pq) and p = σ(a), d/da = -(y - pq) (1 - p) / (1 - pq)
    if name == "esmm":
        with torch.no_grad():
            p, q, y = outputs["ctr"].probability, outputs["cvr"].probability, label
        for head, (own, other) in zip(whole.network.heads.heads, ((p, q), (q, p)), strict=True):
            expected = (-(y - own * other) * (1 - own) / (1 - own * other)).mean()
            torch.testing.assert_close(head.output.bias.grad[0], expected)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("form", ["full", "low_rank", "per_channel"])
def test_star_starts_as_the_network_without_weights_a_domain(form, norm):
    """The norm too: at the start it divides by √(1 + ε) and does nothing else."""
    domains = impression_task("star").domains.model_copy(update={"star": form, "norm": norm})
    starred, plain = Whole("star", start=True, domains=domains), Whole("star", start=True, domains=None, seed=1)
    shared, own = starred.network.state_dict(), plain.network.state_dict()
    if norm:  # the network without a norm reads which domain a row is of, too
        width = shared["body.layers.0.experts.0.linears.0.weight"].shape[1]
        first = own["body.layers.0.experts.0.linears.0.weight"] * 0
        assert first.shape[1] - width == plain.plan.task.features.dim
        first[:, :width] = shared["body.layers.0.experts.0.linears.0.weight"]
        shared["body.layers.0.experts.0.linears.0.weight"] = first
        shared["domain.table.weight"] = own["domain.table.weight"]
    plain.network.load_state_dict({name: shared[name] for name in own})
    close(starred.predicted(), plain.predicted(), atol=1e-5 if norm else 1e-6)
    assert starred.predicted()["ctr"].std() > 1e-3


def test_an_unknown_domain_gets_what_the_shared_weights_say():
    """As if every domain's weights, norm and statistics were not there; so does a number beyond the known ones."""
    whole = Whole("star")
    unknown = whole.predicted(domain=np.full(ROWS, -1))
    known = COLUMNS.domain >= 0
    assert np.abs(whole.predicted()["ctr"][known] - unknown["ctr"][known]).min() > 1e-6
    close(whole.predicted(domain=np.full(ROWS, DOMAINS)), unknown)
    with torch.no_grad():
        for name, value in whole.network.named_parameters():
            if ".deviation." in name or "norm.domain_" in name or name.endswith("domains.weight"):
                value.zero_()
    close(whole.predicted(), unknown)


def test_no_input_of_the_star_network_is_the_same_for_all_rows_of_a_domain():
    """Normalised by domain, it would be nothing in training, and in evaluation whatever its mean has not followed."""
    whole = Whole("star", start=True)
    x = whole.network.embeddings(whole.batch().fields[0]).flatten(1)
    assert whole.network.domain is None
    assert x.shape[1] == whole.network.norm.weight.shape[0]
    for domain in range(DOMAINS):
        assert x[COLUMNS.domain == domain].std(0).min() > 1e-3
    assert Whole("shared_bottom").network.domain is not None


@pytest.mark.parametrize("field", ["position", "device"])
def test_the_position_changes_nothing_in_evaluation(field):
    whole = Whole("position_bias")
    other = Columns()
    other.values[field] = list(reversed(other.values[field]))
    if field == "position":
        other.values[field] = np.array(other.values[field], dtype=float)
    moved = Whole("position_bias", columns=other)
    moved.codings = whole.codings  # coded by what the first columns say
    moved.network.load_state_dict(whole.network.state_dict())
    before, after = whole.predicted(), moved.predicted()
    assert all(np.array_equal(value, after[name]) for name, value in before.items())
    (shallow,), (others,) = whole.network.biases, moved.network.biases
    shallow.train().dropout = others.train().dropout = 0.0
    changed = [name for name, value in whole.predicted().items() if not np.array_equal(value, moved.predicted()[name])]
    assert changed == ["ctr", "ctcvr"], "the position counts for clicks, in training"


def test_soft_sharing_with_a_huge_penalty_makes_the_networks_one():
    task, apart = impression_task("soft_sharing"), []
    label = {name: torch.from_numpy(COLUMNS.labels[name]).float() for name in ("click", "conversion")}
    for penalty in (0.0, 100.0):
        whole = Whole("soft_sharing", start=True, body=(task.body[0].model_copy(update={"penalty": penalty}),))
        optimiser = torch.optim.SGD(whole.network.parameters(), lr=1e-3)
        for _ in range(30):
            outputs = whole.network.train()(whole.batch())
            loss = whole.network.penalty()
            for one in whole.plan.objectives:
                odds, y = outputs[one.of], label[one.label]
                loss = loss - (y * odds.log_p + (1 - y) * odds.log_not_p).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        one, other = (torch.cat([w.flatten() for w in e.parameters()]) for e in whole.network.body.layers[0].experts)
        apart.append(((one - other).norm() / one.norm()).item())
    assert apart[0] > 1, "as far as weights are that start apart"
    assert 0 < apart[1] < 0.02


def test_cross_stitch_with_the_identity_is_two_networks():
    stitched, separate = Whole("cross_stitch"), Whole("soft_sharing")
    state = stitched.network.state_dict()
    for layer in range(2):
        state[f"body.layers.{layer}.router.weight"] = torch.eye(2)
    stitched.network.load_state_dict(state)
    renamed = {}
    for name in separate.network.state_dict():
        source = name
        if name.startswith("body."):
            _, _, _, _, expert, _, level, part = name.split(".")
            source = f"body.layers.{level}.experts.{expert}.linears.0.{part}"
        renamed[name] = state[source]
    separate.network.load_state_dict(renamed)
    close(stitched.predicted(), separate.predicted())


def test_one_expert_is_a_shared_bottom():
    layer = impression_task("mmoe").body[0].model_copy(update={"experts": 1})
    gated, shared = Whole("mmoe", body=(layer,)), Whole("shared_bottom")
    state = gated.network.state_dict()
    shared.network.load_state_dict({name: state[name] for name in shared.network.state_dict()})
    close(gated.predicted(), shared.predicted())
    assert set(state) - set(shared.network.state_dict()) == {f"body.layers.0.router.linears.{k}.weight" for k in (0, 1)}
