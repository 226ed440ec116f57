"""The correlation loss of a training on impressions: its pairs by loops, its value by numpy, and what cuts do to it."""

import numpy as np
import pytest
import torch
from impression_world import plan_of

from peterrec.catalogue import adapter
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import DataError
from peterrec.impression_transfer import build, fit_codings, fit_impressions
from peterrec.objective_recipe import Correlation
from peterrec.training.correlation import Neighbours
from peterrec.training.impression_step import ImpressionPiece, ImpressionSettings
from peterrec.training.impressions import ImpressionProgram
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker

CPU = torch.device("cpu")
ROWS, USERS, ITEMS = 300, 12, 20


def drawn(*, planted=False, users=True) -> Impressions:
    """Rows in no order; with `planted`, clicks hang on the item."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, USERS, ROWS), rng.integers(0, ITEMS, ROWS)
    click = rng.random(ROWS) < 0.5 if not planted else item % 2 == 0
    return Impressions.of_arrays(
        labels={"click": click},
        categorical={"user": [f"u{n:02d}" for n in user], "item": [f"i{n}" for n in item]},
        user=[f"u{n:02d}" for n in user] if users else None,
        time=rng.permutation(ROWS),
    )


def neighbours(impressions, train, **changes):
    return Neighbours(
        impressions,
        Correlation.model_validate({"fields": ("item",), **changes}),
        label=impressions.labels["click"],
        train=train,
    )


@pytest.mark.parametrize("window", [1, 3])
def test_pairs_are_clicks_of_a_user_at_most_a_window_apart(window):
    impressions, train = drawn(), np.arange(0, ROWS, 2)
    expected = set()
    for user in range(USERS):
        own = [row for row in train if impressions.user[row] == user and impressions.labels["click"][row] == 1]
        own.sort(key=lambda row: impressions.time[row])
        expected |= {(a, b) for m, a in enumerate(own) for n, b in enumerate(own) if 0 < abs(m - n) <= window}
    found = neighbours(impressions, train, window=window, negatives=3)
    pairs = found.of(np.arange(ROWS), draw=(0, 1))
    assert sorted(zip(pairs.centre.tolist(), pairs.context.tolist(), strict=True)) == sorted(expected)
    assert found.count(np.arange(ROWS)) == len(expected)
    assert pairs.negatives.shape == (len(expected), 3)
    clicked = {row for row in train if impressions.labels["click"][row] == 1}
    assert set(pairs.negatives.ravel().tolist()) <= clicked, "never of validation or test rows"
    some = np.arange(0, ROWS, 6)
    assert set(found.of(some, draw=(0, 1)).centre.tolist()) == {a for a, _ in expected if a in set(some.tolist())}


def test_without_users_or_pairs_it_is_refused():
    with pytest.raises(DataError, match="--user"):
        neighbours(drawn(users=False), np.arange(ROWS))
    impressions = drawn()
    with pytest.raises(DataError, match="no user has two training rows"):
        neighbours(impressions, np.flatnonzero(impressions.labels["click"] == 1)[:1])


def program_of(impressions, **changes):
    plan = plan_of("deepmcp", impressions)
    rows = np.arange(ROWS)
    torch.manual_seed(0)
    built = build(plan, fit_codings(plan, impressions, rows), encoder=None, adapter=adapter("none"))
    for module in built.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    built.network.train()
    return ImpressionProgram(
        built.rows(impressions, kept=rows, cache_mb=0),
        objectives=plan.objectives,
        measures=plan.measures,
        train=rows,
        validation=rows,
        metric="auc",
        row_weights=True,
        settings=ImpressionSettings.model_validate({"rows": 100, "device": "cpu", **changes}),
        correlation=plan.task.correlation,
    )


def test_the_loss_is_the_sum_of_prediction_matching_and_correlation():
    impressions = drawn()
    program = program_of(impressions)
    step = program.steps(1)[1]
    (piece,) = program.pieces(step, part=0, parts=1)
    loss, _ = program.loss(piece, CPU)
    network, label = program.data.network, impressions.labels["click"][step.rows]
    with torch.no_grad():
        found = network(program.data.batch(step.rows, CPU))
        means = []
        for name in ("ctr", "match"):
            p = 1 / (1 + np.exp(-found[name].logit.double().numpy()))
            means.append(-(label * np.log(p) + (1 - label) * np.log(1 - p)).mean())
        h = network.correlation(program.data.field_vectors(np.arange(ROWS), CPU)).double().numpy()
    pairs = program._neighbours.of(step.rows, draw=step.draw)
    losses = [
        np.log1p(np.exp(-(h[i] @ h[j]))) + sum(np.log1p(np.exp(h[i] @ h[q])) for q in far)
        for i, j, far in zip(*pairs, strict=True)
    ]
    assert loss.item() == pytest.approx(means[0] + 1.0 * means[1] + 0.01 * np.mean(losses), rel=1e-5)
    assert program.weights == {"ctr": 1.0, "match": 1.0, "correlation": 0.01}
    assert program.counts(step)["correlation"] == len(losses)
    np.testing.assert_allclose(
        program.take_losses().numpy() / list(program.counts(step).values()), [*means, np.mean(losses)], rtol=1e-5
    )


def test_cutting_a_step_changes_nothing():
    program = program_of(drawn())
    step = program.steps(2)[0]
    whole = program.loss(ImpressionPiece(step.rows, step), CPU)[0]
    cuts = np.split(step.rows, [7, 60])
    parts = sum(program.loss(ImpressionPiece(rows, step), CPU)[0] for rows in cuts)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)
    first, again = (program_of(drawn()).steps(2)[0] for _ in range(2))
    assert first.draw == again.draw != program.steps(3)[0].draw


def test_training_learns_and_saves_all_its_towers():
    impressions = drawn(planted=True)
    plan = plan_of("deepmcp", impressions)
    settings = {"rows": 64, "epochs": 8, "warmup": 2, "learning_rate": 0.02, "device": "cpu", "precision": "fp32"}
    fitted, data, trained = fit_impressions(
        plan,
        encoder=None,
        adapter=adapter("none"),
        settings=ImpressionSettings.model_validate(settings),
        impressions=impressions,
        split=impressions.split(0),
        checkpoints=None,
        tracker=Tracker(),
        progress=Progress("silent"),
    )
    assert trained.validation > 0.8
    assert set(data.predict(np.arange(5), CPU)) == {"ctr"}
    assert set(trained.history[-1]["losses"]) == {"ctr", "match", "correlation"}
    start = build(plan, fitted.coding, encoder=None, adapter=adapter("none")).network.state_dict()
    state = fitted.network.state_dict()
    towers = [name for name in state if name.startswith(("matches", "correlation"))]
    assert len(towers) == 12
    assert not [name for name in towers if torch.equal(state[name], start[name])]
