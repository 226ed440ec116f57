"""Which recipes take part in a study of impressions, with which settings, under which names."""

from pathlib import Path

import pytest

from peterrec.catalogue import adapter, impression_task
from peterrec.errors import SettingsError
from peterrec.evaluation.impression_plan import RESERVED, ImpressionPlan
from peterrec.evaluation.study_request import StudyRequest

DATA = Path("data")


def plan_of(task="mmoe", *, encoder=None, more=(), **changes):
    return ImpressionPlan.of(StudyRequest(task=task, more_tasks=more, encoder=encoder, data=DATA, **changes))


def told(field):
    return [(one.name, role, one.with_encoder, one.adapter.name) for one, role in field]


def test_recipes_take_part_with_each_adapter_and_without_the_encoder(encoder_folder):
    plan = plan_of(encoder=encoder_folder, more=["esmm"])
    assert told(plan.field(None, None)) == [
        ("mmoe", "model", True, "none"),
        ("esmm", "model", True, "none"),
        ("mmoe-no_encoder", "control", False, "none"),
        ("esmm-no_encoder", "control", False, "none"),
    ]
    assert told(plan.field(["none", "serial"], ["random"])) == [
        ("mmoe", "model", True, "none"),
        ("mmoe+serial", "model", True, "serial"),
        ("esmm", "model", True, "none"),
        ("esmm+serial", "model", True, "serial"),
        ("mmoe-random", "control", True, "none"),
    ]
    assert [one.pretrained for one, _ in plan.field(None, ["random"])] == [True, True, False]


def test_without_an_encoder_there_are_no_controls_and_no_adapters():
    plan = plan_of(more=["esmm"])
    assert told(plan.field(None, None)) == [("mmoe", "model", False, "none"), ("esmm", "model", False, "none")]
    with pytest.raises(SettingsError, match="--controls no_encoder: it is set against an encoder's vectors"):
        plan.field(None, ["no_encoder"])
    with pytest.raises(SettingsError, match="adapter serial: it goes inside an encoder"):
        plan.field(["serial"], None)


def test_names_that_would_mislead_are_refused(encoder_folder, tmp_path):
    with pytest.raises(SettingsError, match="'mmoe' would stand twice"):
        plan_of(more=["mmoe"]).field(None, None)
    with pytest.raises(SettingsError, match="no control 'scratch'"):
        plan_of(encoder=encoder_folder).field(None, ["scratch"])
    recipe = 'kind = "impressions"\n[[body]]\nexperts = 1\n'
    for name in RESERVED:
        mine = tmp_path / f"{name}.toml"
        mine.write_text(recipe)
        for named in ({"task": mine}, {"more": [mine]}):
            with pytest.raises(SettingsError, match="is the name of a row beside the models"):
                plan_of(**named)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data": None}, "name impressions with --data"),
        ({"labels": 90}, "--labels counts labelled users"),
        ({"logs": object()}, "--source and --target"),
    ],
)
def test_what_does_not_go_with_impressions_is_refused(changes, match):
    with pytest.raises(SettingsError, match=match):
        ImpressionPlan.of(StudyRequest(**{"task": "mmoe", "encoder": None, "data": DATA, **changes}))


def test_settings_come_from_the_recipe_then_the_adapter_then_the_command(encoder_folder):
    plan = plan_of(encoder=encoder_folder)
    recipe = impression_task("mmoe").training
    full = adapter("full")
    assert full.learning_rate not in (None, recipe["learning_rate"])
    assert plan.settings_of(plan.contestant()).learning_rate == recipe["learning_rate"]
    assert plan.settings_of(plan.contestant("full")).learning_rate == full.learning_rate
    assert plan.settings_of(plan.contestant("full"), seed=7, learning_rate=0.5).learning_rate == 0.5
    assert plan.settings_of(plan.contestant(), seed=7).seed == 7
    over = plan_of(encoder=encoder_folder, overrides=["learning_rate=0.25", "rows=17"])
    found = over.settings_of(over.contestant("full"))
    assert (found.learning_rate, found.rows) == (0.25, 17)
    with pytest.raises(SettingsError, match="--seeds"):
        plan_of(overrides=["seed=3"])


def test_seeds_and_titles(encoder_folder):
    assert plan_of().seeds == tuple(impression_task("mmoe").seeds)
    plan = plan_of(encoder=encoder_folder, seeds=(4, 5))
    assert plan.seeds == (4, 5)
    assert plan.title(plan.contestant()) == "mmoe on a frozen encoder"
    assert plan.title(plan.contestant("serial")) == "mmoe with the adapter serial"
    assert plan_of().title(plan_of().contestant()) == "mmoe without an encoder"
