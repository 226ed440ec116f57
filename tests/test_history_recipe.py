"""What tasks of every kind say: one check for all of them."""

from typing import Any

import pytest
from pydantic import ValidationError

from peterrec.history_recipe import HistoryRecipe, refuse_repeats
from peterrec.ranking_recipe import RankingTask
from peterrec.task_recipe import TaskRecipe

KINDS: list[Any] = [
    (TaskRecipe, {"name": "x", "column": "c"}, "mean"),
    (RankingTask, {"name": "x", "kind": "ranking"}, "encoder"),
]


@pytest.mark.parametrize(("model", "given", "readout"), KINDS)
def test_every_kind_reads_histories_by_the_same_keys(model, given, readout):
    task = model(**given)
    assert HistoryRecipe in model.__mro__
    assert (task.readout, task.max_length, task.train_readout) == (readout, 200, True)
    for wrong, told in (
        ({"seeds": (0, 0)}, "seeds names one value twice: 0, 0"),
        ({"readout": "encoder", "layers": (-1,)}, "the encoder's own"),
        ({"readout": "last", "item_weights": True}, "belongs to readout = 'attention'"),
        ({"readout": "mean", "layers": (1, 1)}, "several different ones"),
        ({"metrics": (task.metric, task.metric)}, "metrics names one value twice"),
        ({"window": 0}, "greater than or equal to 1"),
    ):
        with pytest.raises(ValidationError, match=told):
            model(**given, **wrong)


def test_repeats():
    refuse_repeats("classes", ())
    with pytest.raises(ValueError, match="classes names one value twice: a, b, a"):
        refuse_repeats("classes", ("a", "b", "a"))
