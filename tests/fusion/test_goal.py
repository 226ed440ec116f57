"""Metrics as a user names them."""

import pytest

from peterrec.errors import SettingsError
from peterrec.fusion.goal import Goal, default_goals, parse_goals


def test_metrics_are_read():
    assert parse_goals(["click/gauc", "conversion/ndcg@10=2.5"]) == [
        Goal("click", "gauc", 1.0),
        Goal("conversion", "ndcg@10", 2.5),
    ]
    assert str(Goal("click", "auc")) == "click/auc"


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["gauc"], "LABEL/MEASURE"),
        (["/auc"], "LABEL/MEASURE"),
        (["click/gaucc"], "Did you mean 'gauc'"),
        (["click/ndcg@0"], "ndcg@10"),
        (["click/log_loss"], "Known: auc"),
        (["click/auc=0"], "not a number above 0"),
        (["click/auc=x"], "not a number above 0"),
        (["click/auc", "click/auc=2"], "stands there twice"),
    ],
)
def test_wrong_metrics_are_told(texts, told):
    with pytest.raises(SettingsError, match=told):
        parse_goals(texts)


def test_without_metrics_click_and_conversion_count_alike():
    assert default_goals(["like", "conversion", "click"], users=True) == [
        Goal("click", "gauc"),
        Goal("conversion", "gauc"),
    ]
    assert default_goals(["like"], users=False) == [Goal("like", "auc")]
    with pytest.raises(SettingsError, match="say what the score shall be good at"):
        default_goals(["like", "share"], users=True)
