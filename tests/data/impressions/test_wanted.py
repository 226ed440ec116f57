"""Labels and fields as a user writes them, and what contradicts itself."""

import pytest

from peterrec.data.impressions.schema import LabelRule, Schema, SplitRule
from peterrec.data.impressions.wanted import Wanted, WantedField, parse_field, parse_label, split_rule
from peterrec.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("click", ("click", "click", None, None)),
        (" click = clicked ", ("click", "clicked", None, None)),
        ("click=rating>=4", ("click", "rating", ">=", 4.0)),
        ("conversion = rating == 5", ("conversion", "rating", "==", 5.0)),
        ("low=a b<=-1.5e3", ("low", "a b", "<=", -1500.0)),
        ("less=x<3", ("less", "x", "<", 3.0)),
        ("more=x>3", ("more", "x", ">", 3.0)),
        ("single=marital_status!=Never married", ("single", "marital_status", "!=", "Never married")),
        ("quoted=code=='7'", ("quoted", "code", "==", "7")),
        ("odd=code==nan", ("odd", "code", "==", "nan")),
    ],
)
def test_labels(text, rule):
    name, column, compare, value = rule
    assert parse_label(text) == LabelRule(name=name, column=column, compare=compare, value=value)


@pytest.mark.parametrize(
    "text", ["", "=x", "click=", "click==1", "click>3", "a=b=3", "a=b>=", "a=>=4", "a=b=>4", "a=b>x"]
)
def test_labels_that_cannot_be_read(text):
    with pytest.raises(SettingsError, match="--label"):
        parse_label(text)


def test_fields():
    assert parse_field("item") == WantedField("item")
    assert parse_field("genres:multi") == WantedField("genres", "multi")
    assert parse_field("a:b:numeric") == WantedField("a:b", "numeric")
    for text, told in (("genres:mutli", "Did you mean 'multi'"), (":multi", "expected NAME"), ("", "expected NAME")):
        with pytest.raises(SettingsError, match=told):
            parse_field(text)


CLICK = LabelRule(name="click", column="rating", compare=">=", value=4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"labels": ()}, "no label is named"),
        ({"labels": (CLICK, CLICK)}, "--label click is given twice"),
        ({"fields": (WantedField("a"), WantedField("a", "multi"))}, "--field a is given twice"),
        ({"fields": (WantedField("click"),)}, "--field click: is a label"),
        ({"fields": (WantedField("rating"),)}, "--field rating: is the column of the label 'click'"),
        ({"domain": "rating"}, "--domain rating: is the column of the label 'click'"),
        ({"time_unit": "s"}, "--time-unit s needs --time"),
        ({"split": SplitRule(name="each_user"), "user": "u"}, "--split each_user needs --time"),
        ({"split": SplitRule(name="by_user")}, "--split by_user needs --user"),
    ],
)
def test_options_that_contradict_each_other(options, told):
    with pytest.raises(SettingsError, match=told):
        Wanted(**{"labels": (CLICK,), "fields": (), **options})


def test_the_split_follows_from_the_columns_unless_it_is_named():
    assert split_rule(None, fractions=None, user=True, time=True) == SplitRule(name="each_user")
    assert split_rule(None, fractions=None, user=True, time=False) == SplitRule(name="rows")
    assert split_rule("temporal", fractions=[0.5, 0.2, 0.3], user=False, time=True).fractions == (0.5, 0.2, 0.3)
    with pytest.raises(SettingsError, match="Did you mean 'each_user'"):
        split_rule("each_users", fractions=None, user=True, time=True)
    for shares in ([0.8, 0.9], [0.5, 0.5, 0.5], [0.9, 0.1, 0.0]):
        with pytest.raises(SettingsError, match="three shares above 0 that sum to 1"):
            split_rule("rows", fractions=shares, user=True, time=True)


def test_a_schema_is_read_back_as_it_was():
    schema = Schema(rules=(CLICK, parse_label("s=m!=x")), user="u", split=SplitRule(name="by_user"), domains=("1", "a"))
    assert Schema.from_json(schema.to_json()) == schema
    assert schema.labels == ("click", "s")
    assert (schema.users, schema.times, schema.weights) == (True, False, False)
    assert schema.columns == {"user": "u", "click": "rating", "s": "m"}
    for text in ("{", "[]", '{"colour": 1}', '{"rules": [{"name": "a", "column": "b", "compare": ">", "value": "x"}]}'):
        with pytest.raises(SettingsError):
            Schema.from_json(text)
