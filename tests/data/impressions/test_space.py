"""Spaces: what they say, which rows they hold, and where a mistake stands."""

import math

import numpy as np
import pytest
import torch

from peterrec.data.impressions.space import parse_space
from peterrec.errors import SettingsError

LABELS = {
    "click": np.array([0, 1, 1, 1, np.nan, 0], dtype=np.float32),
    "like": np.array([0, 0, 1, np.nan, 0, np.nan], dtype=np.float32),
    "dwell": np.array([0.1, 2.5, -3, 1e3, np.nan, 0.1], dtype=np.float32),
}

MEANT = {
    "click == 1": lambda row: row["click"] == 1,
    "click==0": lambda row: row["click"] == 0,
    "click == 1 and like != 1": lambda row: row["click"] == 1 and not math.isnan(row["like"]) and row["like"] != 1,
    "like != 1": lambda row: not math.isnan(row["like"]) and row["like"] != 1,
    "dwell > 2.5": lambda row: row["dwell"] > 2.5,
    "dwell >= 2.5e0 and click <= 1": lambda row: row["dwell"] >= 2.5 and row["click"] <= 1,
    "dwell < -1 and dwell>=-3.": lambda row: -3 <= row["dwell"] < -1,
    "dwell == .1": lambda row: row["dwell"] == np.float32(0.1),
    "'click' == 1 and \"like\" < +1": lambda row: row["click"] == 1 and row["like"] < 1,
}


@pytest.mark.parametrize("text", MEANT)
def test_the_rows_are_those_that_the_text_describes(text):
    rows = [dict(zip(LABELS, values, strict=True)) for values in zip(*LABELS.values(), strict=True)]
    expected = [bool(MEANT[text](row)) for row in rows]
    space = parse_space(text)
    found = space.rows(LABELS)
    assert found.dtype == np.bool_
    assert found.tolist() == expected
    tensors = space.rows({name: torch.from_numpy(values) for name, values in LABELS.items()})
    assert isinstance(tensors, torch.Tensor)
    assert tensors.dtype == torch.bool
    assert tensors.tolist() == expected


def test_names_stand_once_in_order_and_odd_ones_in_quotes():
    assert parse_space("like == 1 and click == 1 and like != 2").names == ("like", "click")
    space = parse_space("'add to cart' == 1 and größe > 0")
    assert space.names == ("add to cart", "größe")
    assert space.rows({"add to cart": np.array([1.0, 0.0]), "größe": np.array([1.0, 1.0])}).tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("", "the end", "name of a label"),
        ("   ", "the end", "name of a label"),
        ("click", "the end", "expected one of =="),
        ("click = 1", r"character 7 \('='\)", "expected one of =="),
        ("click ==", "the end", "expected a number after =="),
        ("click == yes", r"character 10 \('yes'\)", "expected a number"),
        ("click == 1.2.3", r"character 10", "expected a number"),
        ("click == 1e99", r"character 10", "expected a number"),
        ("click == nan", r"character 10", "expected a number"),
        ("1 == click", r"character 1 \('1'\)", "name of a label"),
        ("click == 1 or like == 1", r"character 12 \('or'\)", "expected 'and'"),
        ("click == 1 like == 1", r"character 12 \('like'\)", "expected 'and'"),
        ("click == 1 and", "the end", "name of a label"),
        ("and == 1", r"character 1 \('and'\)", "name of a label"),
        ("(click == 1)", r"character 1 \('\('\)", "name of a label"),
        ("'click == 1", r"character 1", "name of a label"),
    ],
)
def test_a_mistake_is_told_with_its_place(text, place, expected):
    with pytest.raises(SettingsError, match=f"at {place}.*{expected}"):
        parse_space(text)


def test_a_label_that_is_not_there_is_told_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"no label 'clik'\. Did you mean 'click'"):
        parse_space("clik == 1").rows(LABELS)
