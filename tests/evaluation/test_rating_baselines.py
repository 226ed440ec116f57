"""The models of ratings beside a task that measures a value: which rows they see, and where they stand."""

from dataclasses import replace

import numpy as np
import pytest
from impression_world import draw, plan_of

from peterrec.baselines.ratings.models import MODELS
from peterrec.baselines.ratings.ratings import Ratings
from peterrec.data.attribute import Split
from peterrec.evaluation.impression_plan import RATING_MODELS
from peterrec.evaluation.rating_baselines import rating_models, rating_predictions
from peterrec.impression_recipe import Head
from peterrec.objective_recipe import Measure, Objective

PARTS = Split(np.arange(400), np.arange(400, 500), np.arange(500, 600))
SPACE = "click == 1"


def world(*, weights=False):
    """Ratings of shown items, where they were clicked; some rows lack them."""
    impressions = draw(rows=600, users=30, weights=weights)
    rng = np.random.default_rng(2)
    rating = 3 + rng.normal(size=30)[impressions.user] + 0.3 * rng.normal(size=600)
    rating[::13] = np.nan
    impressions.labels["rating"] = rating.astype(np.float32)
    plan = plan_of("shared_bottom", draw(rows=600))
    head = Head(name="rating", output="value")
    measure = Measure(of="rating", label="rating", space=SPACE)
    objective = Objective(of="rating", label="rating", loss="mse", space=SPACE)
    return impressions, replace(plan, heads=(*plan.heads, head), measures=(measure,), objectives=(objective,)), measure


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["biases", "item_neighbours", "svd_plus_plus"])
def test_they_learn_from_the_training_rows_of_the_space(name, weighted):
    impressions, _, measure = world(weights=True)
    if weighted:
        impressions.weight[7:40:3] = 0
    found = rating_predictions(name, impressions, measure, split=PARTS, weighted=weighted, seed=2)

    def rows(part):
        kept = part[(impressions.labels["click"][part] == 1) & np.isfinite(impressions.labels["rating"][part])]
        if weighted:
            kept = kept[impressions.weight[kept] > 0]
        weight = impressions.weight[kept].astype(float) if weighted else None
        ids = len(impressions.user_ids), len(impressions.item_ids)
        value = impressions.labels["rating"][kept].astype(float)
        return Ratings(impressions.user[kept], impressions.item[kept], value, *ids, weights=weight)

    model = MODELS[name].fit(rows(PARTS.train), validation=rows(PARTS.validation), seed=2)
    expected = model.predict(impressions.user[PARTS.test], impressions.item[PARTS.test])
    np.testing.assert_array_equal(found, expected)
    assert np.ptp(found) > 0.3


def test_nothing_of_the_test_rows_is_read():
    impressions, _, measure = world()
    before = {
        name: rating_predictions(name, impressions, measure, split=PARTS, weighted=False, seed=0)
        for name in ("user_neighbours", "integrated")
    }
    impressions.labels["rating"][PARTS.test] = 99
    impressions.labels["click"][PARTS.test] = 1 - impressions.labels["click"][PARTS.test]
    for name, expected in before.items():
        found = rating_predictions(name, impressions, measure, split=PARTS, weighted=False, seed=0)
        np.testing.assert_array_equal(found, expected)


def test_they_stand_where_there_is_a_value_a_user_and_an_item():
    impressions, plan, _ = world()
    assert rating_models(impressions, plan) == RATING_MODELS
    assert set(RATING_MODELS) == set(MODELS) - {"global_mean"}
    assert not rating_models(impressions, replace(plan, measures=(Measure(of="ctr", label="click"),)))
    for key in ("user", "item"):
        without = replace(impressions, schema=impressions.schema.model_copy(update={key: None}))
        assert not rating_models(without, plan)
