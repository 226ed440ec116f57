"""The settings of the training loop."""

import json

import pytest
from pydantic import ValidationError

from peterrec.errors import SettingsError
from peterrec.settings import load_settings
from peterrec.training.settings import TrainingSettings


def test_they_are_closed_frozen_and_survive_json() -> None:
    settings = TrainingSettings(betas=(0.9, 0.98), seed=7)
    assert TrainingSettings.model_validate(json.loads(settings.model_dump_json())) == settings
    with pytest.raises(ValidationError):
        settings.seed = 1  # type: ignore[misc]


def test_overrides_of_the_command_line_reach_them() -> None:
    settings = load_settings(TrainingSettings, overrides=["learning_rate=0.1", "schedule=linear", "compile=true"])
    assert (settings.learning_rate, settings.schedule, settings.compile) == (0.1, "linear", True)
    with pytest.raises(SettingsError, match="learning_rate"):
        load_settings(TrainingSettings, overrides=["learnin_rate=0.1"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"betas": (0.9, 1.0)},
        {"clip": -1},
        {"schedule": "step"},
        {"device": "cuda:1"},
        {"seed": -1},
        {"lr": 0.1},
    ],
)
def test_nonsense_is_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings(**wrong)
