"""Networks of impressions: what an encoder's vectors and domains give them, and what they say in which units."""

import numpy as np
import pytest
import torch
from impression_world import ITEMS, draw, encoder, plan_of
from torch import nn

from peterrec.catalogue import adapter, impression_task
from peterrec.features.row_inputs import DomainInput, VectorInput
from peterrec.impression_model import ImpressionBatch
from peterrec.impression_recipe import Head
from peterrec.impression_transfer import build, fit_codings
from peterrec.objective_recipe import Objective
from peterrec.objectives.log_probability import LogProbability

CPU = torch.device("cpu")


def built(name, impressions, *, with_encoder=None, **changes):
    plan = plan_of(name, impressions, **changes)
    torch.manual_seed(0)
    coding = fit_codings(plan, impressions, np.arange(len(impressions)))
    return build(plan, coding, encoder=with_encoder, adapter=adapter("none"))


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    for value in module.parameters():
        value.normal_(std=1.5 * value.shape[-1] ** -0.5 if value.dim() > 1 else 0.5)


def batch_of(fitted, impressions, rows):
    return fitted.rows(impressions, kept=np.arange(len(impressions)), cache_mb=8).batch(np.asarray(rows), CPU)


@pytest.fixture
def vectors():
    torch.manual_seed(1)
    found = VectorInput(6, width=4)
    randomise(found)
    return found


def test_user_and_item_are_normalised_mapped_and_multiplied(vectors):
    users, items, known = torch.randn(5, 6) * 9 + 2, torch.randn(5, 6) * 0.01, torch.ones(5, dtype=torch.bool)
    found = vectors(users, known, items).detach().numpy()
    s = {name: value.numpy() for name, value in vectors.state_dict().items()}
    x, y = (
        (one - one.mean(1, keepdims=True)) / np.sqrt(one.var(1, keepdims=True) + 1e-5)
        for one in (users.numpy(), items.numpy())
    )
    user, item = x @ s["user.weight"].T + s["user.bias"], y @ s["item.weight"].T + s["item.bias"]
    np.testing.assert_allclose(found, np.concatenate([user, item, user * item], axis=1), rtol=1e-4, atol=1e-5)
    assert vectors.channels == 12


def test_their_scale_does_not_count(vectors):
    users, items, known = torch.randn(5, 6), torch.randn(5, 6), torch.ones(5, dtype=torch.bool)
    torch.testing.assert_close(vectors(users, known, items), vectors(100 * users, known, items), rtol=1e-3, atol=1e-4)


def test_a_user_without_history_has_a_vector_of_its_own(vectors):
    known = torch.tensor([True, False, False])
    users, items = torch.randn(3, 6), torch.randn(3, 6)
    found = vectors(users, known, items)
    for row in (1, 2):
        assert torch.equal(found[row, :4], vectors.no_user)
    assert not torch.equal(found[0, :4], vectors.no_user)
    torch.testing.assert_close(found[1, 8:], vectors.no_user * found[1, 4:8])
    again = vectors(torch.cat([users[:1], torch.full((2, 6), 7.0)]), known, items)
    assert torch.equal(found, again), "whatever stands there"


def test_an_item_that_the_encoder_does_not_know_has_one_too(vectors):
    items = torch.randn(3, 6)
    items[1] = 0
    found = vectors(torch.randn(3, 6), torch.ones(3, dtype=torch.bool), items)
    assert torch.equal(found[1, 4:8], vectors.no_item)
    assert not torch.equal(found[0, 4:8], vectors.no_item)


def test_missing_vectors_train_and_leave_no_nan(vectors):
    """Zero vectors have no direction: their norm must not reach a gradient."""
    users = torch.zeros(2, 6, requires_grad=True)
    items = torch.zeros(2, 6, requires_grad=True)
    vectors(users, torch.tensor([False, False]), items).sum().backward()
    assert vectors.no_user.grad is not None
    assert vectors.no_user.grad.abs().sum() > 0
    assert torch.equal(vectors.user.weight.grad, torch.zeros_like(vectors.user.weight))
    assert torch.isfinite(users.grad).all()
    assert torch.isfinite(items.grad).all()


def test_vectors_under_autocast_stay_near_those_in_full_precision(vectors):
    users, items, known = torch.randn(4, 6), torch.randn(4, 6), torch.tensor([True, False, True, True])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = vectors(users, known, items)
    torch.testing.assert_close(found.float(), vectors(users, known, items), atol=0.05, rtol=0.05)


def test_a_domain_has_a_vector_and_an_unknown_one_zeros():
    domain = DomainInput(3, dim=4)
    found = domain(torch.tensor([2, 0, -1, 3, 2, 1]))
    assert torch.equal(found[0], found[4])
    assert torch.equal(found[2], torch.zeros(4))
    assert torch.equal(found[3], torch.zeros(4)), "a number beyond the known ones"
    assert len({tuple(row.tolist()) for row in found[[0, 1, 5]]}) == 3
    found.sum().backward()
    grad = domain.table.weight.grad
    assert torch.equal(grad[:, 0], torch.tensor([0.0, 1.0, 1.0, 2.0])), "unknown domains train nothing"


def test_what_the_body_reads_stands_in_order():
    """Fields, the domain, then user, item and product."""
    impressions = draw(rows=40, history=True)
    fitted = built("shared_bottom", impressions, with_encoder=encoder())
    network, batch = fitted.network.eval(), batch_of(fitted, impressions, np.arange(40))
    x = network.inputs(batch)
    dim, fields = fitted.plan.task.features.dim, len(fitted.plan.fields)
    assert torch.equal(x[:, : fields * dim], network.embeddings(batch.fields[0]).flatten(1))
    assert torch.equal(x[:, fields * dim : (fields + 1) * dim], network.domain(batch.domain_ids))
    assert torch.equal(x[:, (fields + 1) * dim :], network.vectors(batch.users, batch.known, batch.items))
    assert len(batch) == 40


def test_users_without_history_and_unknown_items_are_told_apart():
    impressions = draw(rows=200, history=True)
    fitted = built("shared_bottom", impressions, with_encoder=encoder())
    assert fitted.model is not None
    fitted.whole.eval()
    batch = batch_of(fitted, impressions, np.arange(200))
    assert np.array_equal(batch.known.numpy(), impressions.before > 0)
    assert 0 < int((~batch.known).sum()) < 200
    rows = torch.tensor([0, 3, 2 + ITEMS])
    found = fitted.model.item_vectors(rows)
    assert torch.equal(found[0], torch.zeros(16))
    table = fitted.model.base_encoder.get_input_embeddings().weight
    torch.testing.assert_close(found[1:], table[rows[1:]])
    unknown = impressions.item_row == 0
    assert np.array_equal((batch.items == 0).all(1).numpy(), unknown)
    assert unknown.any()


def test_outputs_are_the_heads_then_what_is_derived():
    impressions = draw(rows=30)
    network = built("esmm", impressions).network.eval()
    assert network.outputs == ("ctr", "cvr", "ctcvr")
    assert network.values == ()
    batch = batch_of(built("esmm", impressions), impressions, np.arange(30))
    found = network(batch)
    assert all(isinstance(one, LogProbability) and one.log_p.shape == (30,) for one in found.values())
    torch.testing.assert_close(found["ctcvr"].log_p, found["ctr"].log_p + found["cvr"].log_p)
    predicted = network.predicted(batch)
    assert all(value.dtype == torch.float64 for value in predicted.values())
    torch.testing.assert_close(predicted["ctr"], torch.sigmoid(network.raw(batch)["ctr"].double()))


def test_tiny_probabilities_are_predicted_and_not_rounded_to_zero():
    impressions = draw(rows=10)
    fitted = built("esmm", impressions)
    network = fitted.network.eval()
    with torch.no_grad():
        for head in network.heads.heads:
            head.output.bias.fill_(-60.0)
    predicted = network.predicted(batch_of(fitted, impressions, np.arange(10)))
    expected = torch.exp(torch.tensor(-120.0, dtype=torch.float64))
    assert (predicted["ctcvr"] / expected - 1).abs().max() < 1.0
    assert predicted["ctcvr"].min() > 0


VALUED = {
    "heads": (Head(name="ctr"), Head(name="seconds", output="value"), Head(name="stars", output="value")),
    "derived": {},
    "objectives": (
        Objective(of="ctr", label="click"),
        Objective(of="seconds", label="conversion", loss="log_mse"),
        Objective(of="stars", label="conversion", loss="mse"),
    ),
    "measures": (),
}


def test_values_are_said_in_the_units_of_their_labels():
    impressions = draw(rows=20)
    fitted = built("mmoe", impressions, **VALUED)
    network, batch = fitted.network.eval(), batch_of(fitted, impressions, np.arange(20))
    assert network.values == ("seconds", "stars")
    plain = {name: value.detach().clone() for name, value in network.raw(batch).items()}
    network.scale_value("stars", mean=4.0, sd=2.0)
    network.scale_value("seconds", mean=3.0, sd=0.5)
    raw = network.raw(batch)
    torch.testing.assert_close(raw["ctr"], plain["ctr"])
    torch.testing.assert_close(raw["stars"], plain["stars"] * 2 + 4)
    torch.testing.assert_close(raw["seconds"], plain["seconds"] * 0.5 + 3)
    learned = network(batch)
    torch.testing.assert_close(learned["seconds"], raw["seconds"])
    predicted = network.predicted(batch)
    torch.testing.assert_close(predicted["stars"], raw["stars"].double())
    torch.testing.assert_close(predicted["seconds"], raw["seconds"].double().exp() - 1)
    state = network.state_dict()
    assert state["value_mean"].tolist() == [3.0, 4.0], "saved with the weights"
    assert state["value_sd"].tolist() == [0.5, 2.0]


@pytest.mark.parametrize("name", ["shared_bottom", "esmm", "dbmtl", "mmoe_esmm"])
def test_it_starts_at_the_shares_of_positives(name):
    impressions = draw(rows=50)
    fitted = built(name, impressions)
    with torch.no_grad():  # towers say nothing: what is left is the start
        for head in fitted.network.heads.heads:
            head.output.weight.zero_()
    rates = {"ctr": 0.4, "cvr": 0.05, "ctcvr": 0.02}
    fitted.network.start_at_rates(fitted.plan.objectives, [rates[one.of] for one in fitted.plan.objectives])
    with torch.no_grad():
        predicted = fitted.network.eval().predicted(batch_of(fitted, impressions, np.arange(50)))
    assert predicted["ctr"].numpy() == pytest.approx(np.full(50, 0.4), rel=1e-4)
    assert predicted["cvr"].numpy() == pytest.approx(np.full(50, 0.05), rel=1e-3)
    assert predicted["ctcvr"].numpy() == pytest.approx(np.full(50, 0.02), rel=1e-3)


def test_a_tower_is_added_to_its_heads_alone_and_each_reads_its_own_fields():
    impressions = draw(rows=30)
    task = impression_task("position_bias")
    bias = task.biases[0].model_copy(
        update={"fields": ("colour",), "train_only": False, "heads": ("cvr",), "dropout": 0.0}
    )
    wide = bias.model_copy(update={"fields": (), "heads": None, "domain": True})
    fitted = built("shared_bottom", impressions, biases=(bias, wide))
    assert [None if one is None else one.names for one in fitted.codings] == [fitted.plan.fields, ("colour",), None]
    network, batch = fitted.network.eval(), batch_of(fitted, impressions, np.arange(30))
    randomise(network)
    raw = network.raw(batch)
    own = network.biases[0](batch.fields[1], domain_ids=batch.domain_ids)
    every = network.biases[1](batch.fields[0], domain_ids=batch.domain_ids)
    with torch.no_grad():
        for tower in network.biases:
            tower.tower.output.weight.zero_()
            tower.tower.output.bias.zero_()
    without = network.raw(batch)
    torch.testing.assert_close(raw["ctr"], without["ctr"] + every)
    torch.testing.assert_close(raw["cvr"], without["cvr"] + own + every)


def test_heads_may_read_lower_layers():
    impressions = draw(rows=30)
    low = (Head(name="ctr", layer=0), Head(name="cvr"))
    objectives = (Objective(of="ctr", label="click"), Objective(of="cvr", label="conversion"))
    fitted = built("cross_stitch", impressions, heads=low, objectives=objectives)
    network, batch = fitted.network.eval(), batch_of(fitted, impressions, np.arange(30))
    before = network.predicted(batch)
    with torch.no_grad():
        for value in network.body.layers[1].parameters():
            value.zero_()
    after = network.predicted(batch)
    assert torch.equal(before["ctr"], after["ctr"])
    assert not torch.equal(before["cvr"], after["cvr"])


@pytest.mark.parametrize("name", ["shared_bottom", "mmoe_esmm", "ple", "snr_trans", "dbmtl", "star"])
def test_autocast_keeps_outputs_in_full_precision_and_near(name):
    impressions = draw(rows=60)
    fitted = built(name, impressions)
    network, batch = fitted.network.eval(), batch_of(fitted, impressions, np.arange(60))
    exact = network(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(batch)
    for output, value in found.items():
        assert value.log_p.dtype == torch.float32
        torch.testing.assert_close(value.log_p, exact[output].log_p, atol=0.03, rtol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mmoe_esmm", "star"])
def test_it_compiles_to_one_graph(name):
    torch._dynamo.reset()
    impressions = draw(rows=40)
    fitted = built(name, impressions)
    network, batch = fitted.network.eval(), batch_of(fitted, impressions, np.arange(40))
    randomise(network)

    def logs(batch: ImpressionBatch):
        return [one.log_p for one in network(batch).values()]

    compiled = torch.compile(logs, fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(batch), logs(batch), strict=True):
        torch.testing.assert_close(one, other)


def test_the_penalty_is_that_of_the_body():
    impressions = draw(rows=30)
    network = built("snr_aver", impressions).network
    assert network.penalty().item() == pytest.approx(network.body.penalty().item())
    assert network.penalty().item() > 0


def test_the_penalty_of_embeddings_is_the_mean_of_their_squared_lengths_in_a_row():
    impressions = draw(rows=30)
    fitted = built("shared_bottom", impressions)
    network, batch = fitted.network, batch_of(fitted, impressions, np.arange(30))
    randomise(network)
    network._penalty_weight = 0.3
    network.train()
    network(batch)
    vectors = network.embeddings(batch.fields[0]).detach().numpy()
    assert vectors.shape[:2] == (30, len(network.embeddings.sizes))
    expected = 0.3 * np.mean([sum(float(v @ v) for v in row) for row in vectors])
    assert network.penalty().item() == pytest.approx(expected, rel=1e-5)
    assert network.penalty().item() == 0, "it is of the batch computed last, and taken once"
    network.eval()
    network(batch)
    assert network.penalty().item() == 0
