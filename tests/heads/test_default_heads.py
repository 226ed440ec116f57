"""Heads by the labels of the data."""

import pytest

from peterrec.errors import SettingsError
from peterrec.heads.default_heads import default_heads
from peterrec.impression_recipe import ImpressionTask


def spoken(labels: dict[str, bool]) -> dict:
    heads, derived, objectives, measures = default_heads(labels)
    recipe = {
        "heads": [head.model_dump() for head in heads],
        "derived": derived,
        "objectives": [one.model_dump() for one in objectives],
        "measures": [one.model_dump() for one in measures],
    }
    body = [{"experts": 1}]
    ImpressionTask.model_validate({"name": "t", "kind": "impressions", "body": body, **recipe})  # a recipe could say so
    return {
        "heads": [(head.name, head.output) for head in heads],
        "derived": derived,
        "objectives": [(one.of, one.label, one.loss, one.space) for one in objectives],
        "measures": [(one.of, one.label, one.space) for one in measures],
    }


def test_click_and_conversion_and_more():
    assert spoken({"click": True, "conversion": True, "like": True, "dwell": False}) == {
        "heads": [("ctr", "probability"), ("cvr", "probability"), ("like", "probability"), ("dwell", "value")],
        "derived": {"ctcvr": "ctr * cvr"},
        "objectives": [
            ("ctr", "click", "bce", None),
            ("cvr", "conversion", "bce", "click == 1"),
            ("like", "like", "bce", None),
            ("dwell", "dwell", "mse", None),
        ],
        "measures": [
            ("ctr", "click", None),
            ("cvr", "conversion", "click == 1"),
            ("ctcvr", "conversion", None),
            ("like", "like", None),
            ("dwell", "dwell", None),
        ],
    }


def test_a_conversion_comes_first_or_alone():
    both = spoken({"conversion": True, "click": True})
    assert both["heads"] == [("cvr", "probability"), ("ctr", "probability")]
    assert both["derived"] == {"ctcvr": "ctr * cvr"}
    for labels in ({"conversion": True}, {"conversion": True, "click": False}, {"click": True, "conversion": False}):
        found = spoken(labels)
        assert not found["derived"]
        assert [name for name, _ in found["heads"]] == [
            "ctr" if labels.get(one) and one == "click" else one for one in labels
        ]
        assert all(space is None for *_, space in (*found["objectives"], *found["measures"]))


def test_names_that_are_taken():
    assert spoken({"ctr": True, "ctcvr": True})["heads"] == [("ctr", "probability"), ("ctcvr", "probability")]
    for labels in ({"click": True, "ctr": True}, {"click": True, "conversion": True, "ctcvr": True}):
        with pytest.raises(SettingsError, match=f"label '{list(labels)[-1]}' has the name"):
            default_heads(labels)
    with pytest.raises(SettingsError, match="--label"):
        default_heads({})
