"""Which softmax serves a catalogue, and what is said of it."""

import pytest

from peterrec.errors import SettingsError
from peterrec.objectives.settings import MOST_EXACT_ROWS, OF, POSITION_LEVEL, USER_LEVEL, ObjectiveSettings
from peterrec.settings import dump, load_settings, to_toml, validate


@pytest.mark.parametrize(
    ("softmax", "rows", "sampled"),
    [
        ("auto", 3_700, False),
        ("auto", MOST_EXACT_ROWS, False),
        ("auto", MOST_EXACT_ROWS + 1, True),
        ("exact", 1_000_000, False),
        ("sampled", 3_700, True),
    ],
)
def test_the_number_of_rows_decides_unless_the_settings_do(softmax, rows, sampled):
    settings = ObjectiveSettings(softmax=softmax)
    assert settings.sampled(rows) is sampled
    told = settings.describe(rows)
    assert f"{rows:,}" in told
    assert ("1,024 negatives" in told) is sampled
    assert ("as objective.softmax says" in told) is (softmax != "auto")


def test_as_many_negatives_as_items_are_no_sample():
    settings = ObjectiveSettings(softmax="sampled", negatives=100)
    assert settings.sampled(104)
    with pytest.raises(SettingsError, match=r"negatives = 100 is no sample of 100 items.*softmax = exact"):
        settings.sampled(103)
    automatic = ObjectiveSettings(negatives=30_000)
    assert not automatic.sampled(25_000)
    assert "exact (objective.negatives = 30,000 would be no sample" in automatic.describe(25_000)


def test_the_stated_limit_is_the_one_that_decides():
    description = ObjectiveSettings.model_fields["softmax"].description
    assert f"{MOST_EXACT_ROWS:,}" in description


def test_only_the_next_item_has_weight_unless_told_otherwise():
    settings = ObjectiveSettings()
    assert settings.weights == {"next_item": 1.0}
    assert settings.position_level == ("next_item",)
    assert settings.user_level == ()


def test_something_must_be_learnt():
    with pytest.raises(SettingsError, match=r"mine\.toml|all weights are 0.*contrast, bag a weight above 0"):
        validate(ObjectiveSettings, {"next_item": 0.0}, origin="mine.toml")
    with pytest.raises(SettingsError, match=r"masked_item = -1.*>= 0"):
        validate(ObjectiveSettings, {"masked_item": -1.0}, origin="mine.toml")


def test_the_name_of_an_older_settings_file_is_explained():
    with pytest.raises(SettingsError, match=r"objective\.name is gone.*next_item = 1\.0"):
        validate(ObjectiveSettings, {"name": "next_item", "tcl_rate": 0.1}, origin="settings.toml")


@pytest.mark.parametrize(
    ("weights", "metric", "scores", "by_table"),
    [
        ({}, "ndcg@10", True, True),
        ({"contrast": 1.0}, "ndcg@10", True, True),
        ({"next_item": 0.0, "contrast": 1.0}, "match@10", False, False),
        ({"next_item": 0.0, "bag": 1.0}, "bag_log_likelihood", True, False),
        ({"next_item": 0.0, "bag": 1.0, "bag_table": "tied"}, "bag_log_likelihood", True, True),
        ({"contrast": 1.0, "watch": "match@10"}, "match@10", True, True),
        ({"next_item": 0.0, "bag": 1.0, "watch": "ndcg@10"}, "ndcg@10", True, False),
    ],
)
def test_what_is_watched_and_what_scores(weights, metric, scores, by_table):
    settings = ObjectiveSettings(**weights)
    assert settings.metric == metric
    assert settings.scores_items is scores
    assert settings.scores_by_item_table is by_table


OTHER = {
    "next_steps": 3,
    "tcl_rate": 0.2,
    "mask_rate": 0.2,
    "last_rate": 0.2,
    "gap_rate": 0.2,
    "views": "crops",
    "crop_share": 0.4,
    "view_length": 100,
    "temperature": 0.2,
    "group_users": 100,
    "user_passes": 2.0,
    "bag_table": "tied",
    "softmax": "exact",
    "sampler": "popularity",
    "negatives": 100,
    "negative_sets": 2,
    "popularity_power": 0.5,
}


def with_weight(*names):
    return {"next_item": 0.0} | dict.fromkeys(names, 1.0)


@pytest.mark.parametrize("option", OTHER)
def test_an_option_of_objectives_without_weight_is_refused(option):
    every = (*POSITION_LEVEL, *USER_LEVEL)
    for name in every:
        given = {**with_weight(name), option: OTHER[option]}
        if (name, option) == ("bag", "views"):
            continue
        if name in OF[option]:
            assert getattr(validate(ObjectiveSettings, given, origin="mine.toml"), option) == OTHER[option]
            continue
        with pytest.raises(SettingsError, match=rf"{option} = .* is for .*{OF[option][0]}.*no weight.*mine\.toml"):
            validate(ObjectiveSettings, given, origin="mine.toml")


def test_every_option_belongs_to_an_objective():
    weights = {*POSITION_LEVEL, *USER_LEVEL}
    assert OF.keys() == OTHER.keys() == ObjectiveSettings.model_fields.keys() - weights - {"watch"}
    assert {name for having in OF.values() for name in having} == weights


def test_the_length_of_views_is_for_those_who_watch_them_too():
    assert ObjectiveSettings(watch="match@10", view_length=100).view_length == 100


@pytest.mark.parametrize("objective", [{}, {"contrast": 1.0, "group_users": 9}, with_weight("bag")], ids=str)
def test_settings_that_a_run_wrote_whole_are_read_back(objective, tmp_path):
    settings = ObjectiveSettings(**objective)
    assert validate(ObjectiveSettings, dump(settings), origin="run.json") == settings
    (tmp_path / "settings.toml").write_text(to_toml(dump(settings)))
    assert load_settings(ObjectiveSettings, file=tmp_path / "settings.toml") == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bag": 1.0, "views": "dropout"}, "bag = 1 with views = 'dropout'.*Set views = 'halves'"),
        ({"bag": 1.0, "contrast": 1.0, "views": "crops"}, "bag = 1 with views = 'crops'"),
        ({"watch": "bag_log_likelihood"}, "watch = 'bag_log_likelihood' is a figure of bag, which has no weight"),
        ({"contrast": 1.0, "watch": "bag_log_likelihood"}, "watch = 'bag_log_likelihood' is a figure of bag"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(given, message):
    with pytest.raises(SettingsError, match=message):
        validate(ObjectiveSettings, given, origin="mine.toml")


def test_the_sum_is_told():
    told = ObjectiveSettings(contrast=0.25, group_users=2000).combination()
    assert "1 × next_item + 0.25 × contrast" in told
    assert "halves" in told
    assert "groups of 2,000 users" in told
    assert "views" not in ObjectiveSettings(next_item=2.0).combination()
