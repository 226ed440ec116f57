"""Training on impressions: losses against numpy, what is learned, and that cutting a step changes nothing."""

import numpy as np
import pytest
import torch
from impression_world import draw, encoder, plan_of

from peterrec.catalogue import ImpressionTask, adapter, any_task, impression_task, names
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import DataError
from peterrec.impression_transfer import build, fit_codings, fit_impressions
from peterrec.objective_recipe import Measure, Objective
from peterrec.training.impression_step import ImpressionSettings
from peterrec.training.impressions import ImpressionProgram
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker

CPU = torch.device("cpu")
LINKED = {"nmtr", "conet", "sconet", "dupn", "deepmcp"}  # other fields and labels: test_linked_recipes.py
RECIPES = [name for name in names("tasks") if isinstance(any_task(name), ImpressionTask) and name not in LINKED]
EVERYWHERE = [name for name in RECIPES if name not in ("esm2", "engagement", "position_bias", "youtube_ranking")]


@pytest.fixture(scope="module")
def impressions():
    return draw()


def settings_of(**changes) -> ImpressionSettings:
    values = {"rows": 256, "epochs": 6, "warmup": 5, "learning_rate": 0.01, "device": "cpu", "precision": "fp32"}
    return ImpressionSettings.model_validate(values | changes)


def fitted(name, impressions, *, with_encoder=None, adapter_name="none", **changes):
    plan = plan_of(name, impressions)
    return fit_impressions(
        plan,
        encoder=with_encoder,
        adapter=adapter(adapter_name),
        settings=settings_of(**changes),
        impressions=impressions,
        split=impressions.split(0),
        checkpoints=None,
        tracker=Tracker(),
        progress=Progress("silent"),
    )


def program_of(name, impressions, *, objectives=None, with_encoder=None, adapter_name="none", **changes):
    """A program on all rows, its model in evaluation mode (no dropout)."""
    plan = plan_of(name, impressions)
    rows = np.arange(len(impressions))
    torch.manual_seed(0)
    built = build(plan, fit_codings(plan, impressions, rows), encoder=with_encoder, adapter=adapter(adapter_name))
    built.whole.eval()
    return ImpressionProgram(
        built.rows(impressions, kept=rows, cache_mb=64),
        objectives=plan.objectives if objectives is None else objectives,
        measures=plan.measures,
        train=rows,
        validation=rows,
        metric="auc",
        row_weights=True,
        settings=settings_of(**changes),
    )


def total(program, step, *, part=0, parts=1):
    pieces = program.pieces(step, part=part, parts=parts)
    return sum((program.loss(piece, CPU)[0] for piece in pieces), torch.zeros(()))


def cross_entropy(p, y):
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


@pytest.mark.parametrize("weights", [False, True])
def test_the_loss_is_the_sum_of_means_over_the_spaces(weights):
    impressions = draw(rows=600, weights=weights)
    objectives = [
        Objective(of="ctr", label="click", weight=2.0),
        Objective(of="cvr", label="conversion", space="click == 1", weight=0.5),
        Objective(of="ctcvr", label="conversion"),
    ]
    program = program_of("mmoe", impressions, objectives=objectives)
    step = program.steps(1)[0]
    p = {name: values[step.rows] for name, values in program.data.predict(np.arange(600), CPU).items()}
    y = {name: values[step.rows].astype(float) for name, values in impressions.labels.items()}
    w = np.ones(600) if not weights else impressions.weight / impressions.weight.mean()
    w = w[step.rows].astype(float)
    clicked = y["click"] == 1
    expected = (
        2.0 * np.average(cross_entropy(p["ctr"], y["click"]), weights=w)
        + 0.5 * np.average(cross_entropy(p["cvr"], y["conversion"])[clicked], weights=w[clicked])
        + np.average(cross_entropy(p["ctr"] * p["cvr"], y["conversion"]), weights=w)
    )
    assert total(program, step).item() == pytest.approx(expected, rel=1e-5)
    parts = program.take_losses()
    mean = parts / torch.tensor([float(count) for count in program.counts(step).values()])
    assert mean[0].item() == pytest.approx(np.average(cross_entropy(p["ctr"], y["click"]), weights=w), rel=1e-5)
    assert list(program.counts(step).values()) == [len(step.rows), int(clicked.sum()), len(step.rows)]


@pytest.mark.parametrize("with_encoder", [False, True])
def test_losses_and_gradients_do_not_depend_on_how_a_step_is_cut(with_encoder):
    impressions = draw(rows=400, history=True)
    found = []
    for parts, micro_batch in ((1, 0), (3, 0), (1, 60)):
        more = {"with_encoder": encoder(), "adapter_name": "serial"} if with_encoder else {}
        program = program_of("esmm", impressions, micro_batch=micro_batch, rows=128, **more)
        step = program.steps(1)[0]
        if with_encoder:
            for parameter in program.model.parameters():  # patches start as the identity, where some gradients vanish
                if parameter.requires_grad:
                    torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(5))
        loss = sum((total(program, step, part=part, parts=parts) for part in range(parts)), torch.zeros(()))
        loss.backward()
        gradients = {n: p.grad for n, p in program.model.named_parameters() if p.grad is not None}
        found.append((loss.item(), gradients))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        assert gradients.keys() == found[0][1].keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], atol=2e-5, rtol=1e-3)


def with_penalty(penalty):
    task = impression_task("shared_bottom")
    return task.model_copy(update={"features": task.features.model_copy(update={"penalty": penalty})})


def test_the_penalty_of_embeddings_does_not_depend_on_how_a_step_is_cut():
    impressions = draw(rows=400)
    found = []
    for parts in (1, 3):
        program = program_of(with_penalty(0.5), impressions, rows=128)
        for module in program.model.modules():
            module.training = not isinstance(module, torch.nn.Dropout)
        loss = sum((total(program, program.steps(1)[0], part=n, parts=parts) for n in range(parts)), torch.zeros(()))
        loss.backward()
        found.append((loss.item(), program.data.network.embeddings.table.weight.grad.clone()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-6, rtol=1e-4)


def test_the_penalty_of_embeddings_keeps_them_short():
    impressions, lengths = draw(rows=600), {}
    for penalty in (0.0, 1.0):
        parts, _, _ = fitted(with_penalty(penalty), impressions, epochs=20, patience=20)
        lengths[penalty] = parts.network.embeddings.table.weight.norm().item()
    assert lengths[1.0] < 0.5 * lengths[0.0]


def test_the_record_of_an_epoch_holds_these_losses():
    """Through the training loop: one step of all rows, its loss as a whole and of each objective."""
    impressions = draw(rows=400)
    plan = plan_of("esmm", impressions)
    parts, _, trained = fitted("esmm", impressions, epochs=1, rows=400, learning_rate=1e-9)
    parts.whole.eval()
    train = impressions.split(0).train
    p = parts.rows(impressions, kept=train, cache_mb=64).predict(train, CPU)
    expected = {
        one.of: cross_entropy(p[one.of], impressions.labels[one.label][train]).mean() for one in plan.objectives
    }
    record = trained.history[0]
    assert record["targets"] == len(train)
    assert record["losses"] == pytest.approx(expected, rel=0.02)  # dropout was on
    assert record["loss"] == pytest.approx(sum(expected.values()), rel=0.02)


def test_an_epoch_has_every_row_once_in_an_order_of_its_own(impressions):
    program = program_of("shared_bottom", impressions)
    first, again, second = (np.concatenate([step.rows for step in program.steps(epoch)]) for epoch in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert np.array_equal(np.sort(first), np.arange(len(impressions)))


def test_a_space_without_rows_in_a_step_adds_nothing():
    impressions = draw(rows=64)
    impressions.labels["click"][:] = 0
    impressions.labels["conversion"][:] = 0
    impressions.labels["click"][40:50] = 1
    impressions.labels["conversion"][45:50] = 1
    objectives = [Objective(of="cvr", label="conversion", space="click == 1")]
    program = program_of("esmm", impressions, objectives=objectives)
    step = program._step(np.arange(30))
    loss = total(program, step)
    assert loss.item() == 0
    assert not loss.requires_grad or all(
        gradient is None or not gradient.any()
        for gradient in torch.autograd.grad(loss, list(program.model.parameters()), allow_unused=True)
    )


def test_a_label_that_no_training_row_has_is_refused():
    impressions = draw(rows=64)
    impressions.labels["click"][:] = 0
    with pytest.raises(DataError, match="no training row has the label conversion where click == 1"):
        program_of("esmm", impressions, objectives=[Objective(of="cvr", label="conversion", space="click == 1")])


@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_recipe_learns_what_is_planted_and_trains_all_its_weights(name, impressions):
    parts, data, trained = fitted(name, impressions)
    test = impressions.split(0).test
    predicted = data.predict(test, CPU)
    assert set(predicted) == {"ctr", "cvr", "ctcvr"}
    np.testing.assert_allclose(predicted["ctcvr"], predicted["ctr"] * predicted["cvr"], rtol=1e-5)
    assert trained.validation > 0.68, trained.history[-1]["validation"]
    start = build(parts.plan, parts.coding, encoder=None, adapter=adapter("none")).network.state_dict()
    stuck = [name for name, value in parts.network.state_dict().items() if torch.equal(value, start[name])]
    unseen = {"embeddings.starts", "value_mean", "value_sd", "domain.table.weight"}
    assert not {name for name in stuck if not name.endswith("batches")} - unseen, stuck


def test_noise_is_not_learned():
    impressions = draw(planted=False, rows=2000)
    _, data, _ = fitted("mmoe", impressions, epochs=3)
    test = impressions.split(0).test
    label, prediction = impressions.labels["click"][test], data.predict(test, CPU)["ctr"]
    order = np.argsort(np.argsort(prediction))[label == 1]
    positives, negatives = int(label.sum()), int((1 - label).sum())
    auc = (order.sum() - positives * (positives - 1) / 2) / (positives * negatives)
    assert abs(auc - 0.5) < 0.09


@pytest.mark.parametrize("adapter_name", ["none", "serial", "full"])
def test_what_the_user_did_before_is_used(adapter_name):
    """Clicks hang on the last event alone: fields say nothing, histories do."""
    impressions = draw(rows=3000, users=150, history=True)
    blind = fitted("mmoe_esmm", impressions, epochs=3)[2]
    seeing = fitted("mmoe_esmm", impressions, with_encoder=encoder(), adapter_name=adapter_name, epochs=6)[2]
    clicks = [max(record["validation"]["ctr/auc"] for record in one.history) for one in (blind, seeing)]
    assert clicks[0] < 0.62
    assert clicks[1] > 0.7


def test_a_frozen_encoder_stays_as_it_is_to_the_bit():
    impressions = draw(rows=600, history=True)
    base = encoder()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    fitted("shared_bottom", impressions, with_encoder=base, epochs=2)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


def test_values_are_learned_in_units_of_their_own():
    """Seconds of a thousand weigh no more than a share; the head's start is the mean of what is learned."""
    rng = np.random.default_rng(0)
    rows = 800
    shelf = rng.integers(0, 4, rows)
    seconds = np.exp(shelf + 0.3 * rng.normal(size=rows)) * 100
    impressions = Impressions.of_arrays(
        labels={"click": rng.random(rows) < 0.5, "dwell": seconds, "completion": rng.random(rows) < 0.5},
        categorical={"shelf": [f"s{n}" for n in shelf]},
    )
    program = program_of("engagement", impressions, objectives=[Objective(of="dwell", label="dwell", loss="log_mse")])
    network = program.data.network
    assert network.value_mean.item() == pytest.approx(np.log1p(seconds).mean(), rel=1e-5)
    step = program.steps(1)[0]
    assert total(program, step).item() == pytest.approx(1.0, abs=0.3)
    _, data, trained = fitted("engagement", impressions, epochs=8)
    test = impressions.split(0).test
    found = data.predict(test, CPU)["dwell"]
    assert np.corrcoef(np.log(found), np.log(seconds[test]))[0, 1] > 0.9
    assert trained.history[-1]["validation"]["dwell/rmse"] > 1  # in seconds


def test_measures_watch_the_mean_of_the_defined_figures(impressions):
    program = program_of("esmm", impressions)
    found = program.validate()
    click, sold = (impressions.labels[name][program._validation] for name in ("click", "conversion"))
    weights = [len(y) * y.mean() * (1 - y.mean()) for y in (click, sold[click == 1], sold)]  # rare labels tell less
    aucs = [found["ctr/auc"], found["cvr/auc"], found["ctcvr/auc"]]
    assert found["auc"] == pytest.approx(np.average(aucs, weights=weights))
    plan = plan_of("esmm", impressions)
    rows = np.arange(len(impressions))
    only = ImpressionProgram(
        program.data,
        objectives=plan.objectives,
        measures=(Measure(of="ctr", label="click"),),
        train=rows,
        validation=rows,
        metric="log_loss",
        row_weights=True,
        settings=settings_of(),
    )
    assert only.validate()["log_loss"] == pytest.approx(-found["ctr/log_loss"])


def test_rows_are_predicted_in_the_order_in_which_they_are_asked_for(monkeypatch):
    monkeypatch.setattr("peterrec.training.impression_reader.AT_ONCE", 32)
    impressions = draw(rows=200, history=True)
    program = program_of("mmoe", impressions, with_encoder=encoder())
    rows = np.random.default_rng(2).permutation(200)
    told: list[int] = []
    found = program.data.predict(rows, CPU, advance=told.append)
    one_by_one = [program.data.predict(np.array([row]), CPU)["ctr"][0] for row in rows[:40]]
    np.testing.assert_allclose(found["ctr"][:40], one_by_one, rtol=1e-5)
    assert sum(told) == 200
