"""Training scores on groups of rows: the loss against a loop, steps that are cut, and that an order is learned."""

import numpy as np
import pytest
import torch
from impression_world import draw, encoder
from pydantic import ValidationError

from peterrec.catalogue import ImpressionTask, adapter
from peterrec.errors import DataError, SettingsError
from peterrec.evaluation.impression_entrant import by_measure, measured
from peterrec.impression_design import binary_labels, design
from peterrec.impression_transfer import build, fit_codings, fit_impressions
from peterrec.training.impression_step import ImpressionSettings
from peterrec.training.impressions import ImpressionProgram
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker

CPU = torch.device("cpu")


def task_of(loss="bpr", within="user", **changes) -> ImpressionTask:
    values = {
        "name": "ranked",
        "kind": "impressions",
        "body": [{"experts": 1, "hidden": [16]}],
        "heads": [{"name": "rank", "output": "score"}, {"name": "p"}],
        "objectives": [
            {"of": "rank", "label": "click", "loss": loss, "within": within},
            {"of": "p", "label": "click"},
        ],
    }
    return ImpressionTask.model_validate(values | changes)


def plan_of(task, impressions):
    fields = [one.name for one in impressions.schema.fields]
    return design(task, fields=fields, labels=binary_labels(impressions), domains=len(impressions.schema.domains))


def settings_of(**changes) -> ImpressionSettings:
    values = {"rows": 256, "epochs": 6, "warmup": 5, "learning_rate": 0.01, "device": "cpu", "precision": "fp32"}
    return ImpressionSettings.model_validate(values | changes)


def program_of(task, impressions, *, with_encoder=None, **changes):
    plan = plan_of(task, impressions)
    rows = np.arange(len(impressions))
    torch.manual_seed(0)
    name = "none" if with_encoder is None else "serial"
    built = build(plan, fit_codings(plan, impressions, rows), encoder=with_encoder, adapter=adapter(name))
    built.whole.eval()
    return ImpressionProgram(
        built.rows(impressions, kept=rows, cache_mb=64),
        objectives=plan.objectives[:1],
        measures=plan.measures,
        train=rows,
        validation=rows,
        metric="auc",
        row_weights=True,
        settings=settings_of(**changes),
    )


def total(program, step, *, part=0, parts=1):
    pieces = program.pieces(step, part=part, parts=parts)
    return sum((program.loss(piece, CPU)[0].detach() for piece in pieces), torch.zeros(()))


def test_the_loss_is_the_mean_over_the_pairs_of_users():
    impressions = draw(rows=300, users=20, weights=True)
    program = program_of(task_of(), impressions, rows=1000)
    (step,) = program.steps(0)
    rows = step.rows
    scores = program.data.predict(rows, CPU)["rank"]
    click, user, weight = (
        np.asarray(each)[rows] for each in (impressions.labels["click"], impressions.user, impressions.weight)
    )
    above = (user[:, None] == user) & (click[:, None] == 1) & (click == 0)
    pairs = (weight[:, None] * weight)[above]
    wanted = (pairs * np.log1p(np.exp(-(scores[:, None] - scores)[above]))).sum() / pairs.sum()
    assert float(total(program, step)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("loss", ["bpr", "listwise"])
@pytest.mark.parametrize("with_encoder", [False, True])
def test_losses_do_not_depend_on_how_a_step_is_cut(loss, with_encoder):
    impressions = draw(rows=300, users=20, history=with_encoder)
    few = {"micro_batch": 400} if with_encoder else {}  # histories are encoded in each step, few at a time
    program = program_of(task_of(loss), impressions, with_encoder=encoder() if with_encoder else None, rows=200, **few)
    assert not with_encoder or len(program.pieces(program.steps(0)[0], part=0, parts=1)) > 3
    for step in program.steps(0):
        whole = float(total(program, step))
        apart = sum(float(total(program, step, part=part, parts=3)) for part in range(3))
        assert apart == pytest.approx(whole, rel=1e-4)
        groups = [
            set(impressions.user[piece.rows]) for part in range(3) for piece in program.pieces(step, part=part, parts=3)
        ]
        assert sum(map(len, groups)) == len(set().union(*groups))


@pytest.mark.parametrize("loss", ["bpr", "listwise"])
def test_an_order_is_learned_and_measured_by_order_alone(loss):
    impressions = draw()
    task = task_of(
        loss, heads=[{"name": "rank", "output": "score"}], objectives=[{"of": "rank", "label": "click", "loss": loss}]
    )
    plan, split = plan_of(task, impressions), impressions.split(0)
    fitted, data, _ = fit_impressions(
        plan,
        encoder=None,
        adapter=adapter("none"),
        settings=settings_of(),
        impressions=impressions,
        split=split,
        checkpoints=None,
        tracker=Tracker(),
        progress=Progress("silent"),
    )
    assert fitted.network.values == ("rank",)
    found = measured(impressions, split.test, plan, by_measure(plan, data.predict(split.test, CPU)))
    assert {name.split("/")[1] for name in found.names} == {"auc", "gauc", "gauc_mean", "gauc_positives"}
    assert found.calibration == {}
    assert found.main("log_loss") == "rank/auc"
    assert found.measure(np.ones((1, len(found))), ["rank/gauc"])["rank/gauc"][0] > 0.75


def test_the_field_that_names_a_list_is_no_input():
    impressions = draw(rows=200)
    assert "shelf" not in plan_of(task_of(within="shelf"), impressions).fields
    assert "shelf" in plan_of(task_of(), impressions).fields


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"objectives": [{"of": "rank", "label": "click"}, {"of": "p", "label": "click"}]}, "take bpr or listwise"),
        ({"objectives": [{"of": "p", "label": "click", "loss": "bpr"}]}, "no score: set its head's output"),
        ({"derived": {"both": "rank * p"}}, "rank"),
    ],
)
def test_what_does_not_fit_a_score_is_refused(changes, told):
    with pytest.raises(SettingsError, match=told):
        plan_of(task_of(**changes), draw(rows=100))


def test_recipes_that_no_batch_could_hold_are_refused():
    objectives = [{"of": "rank", "label": "click", "loss": "bpr", "within": one} for one in ("user", "time")]
    with pytest.raises(ValidationError, match="within is time and user"):
        task_of(objectives=objectives)
    with pytest.raises(ValidationError, match="within belongs to the losses bpr and listwise"):
        task_of(objectives=[{"of": "p", "label": "click", "within": "user"}])


def test_groups_in_which_nothing_competes_are_refused():
    with pytest.raises(DataError, match="can be ranked above another"):
        program_of(task_of(within="time"), draw(rows=100))
