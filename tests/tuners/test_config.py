"""Settings that all of our tuners share: their types are checked, which peft does not do."""

import json

import pytest

from peterrec.tuners.config import TunerConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers_to_transform": []}, "layers_to_transform is empty"),
        ({"layers_to_transform": "1"}, "layers_to_transform must be"),
        ({"layers_to_transform": [0, "1"]}, "layers_to_transform must be"),
        ({"layers_to_transform": -1}, "layers_to_transform must be"),
        ({"layers_to_transform": [True]}, "layers_to_transform must be"),
        ({"layers_to_transform": True}, "layers_to_transform must be"),
        ({"layers_to_transform": [0], "target_modules": r".*\.conv"}, "layers_to_transform has no effect"),
        ({"target_modules": 3}, "target_modules must be a name or a list"),
        ({"target_modules": ["conv", 3]}, "target_modules must be"),
        ({"exclude_modules": {"conv": 1}}, "exclude_modules must be"),
        ({"modules_to_save": "head"}, "modules_to_save must be a list of names"),
        ({"trainable_token_indices": 2}, "trainable_token_indices must be"),
        ({"trainable_token_indices": {"embed_tokens": [-2]}}, "trainable_token_indices must be"),
        ({"trainable_token_indices": {"embed_tokens": "2"}}, "trainable_token_indices must be"),
        ({"layers_pattern": 1}, "layers_pattern must be"),
    ],
)
def test_wrong_types_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TunerConfig(**settings)


@pytest.mark.parametrize("layers", [1, [0, 2], (0, 2)])
def test_right_ones_pass(layers):
    config = TunerConfig(
        layers_to_transform=layers,
        target_modules=["conv", "norm"],
        modules_to_save=["head"],
        trainable_token_indices={"embed_tokens": [2]},
    )
    assert config.target_modules == {"conv", "norm"}
    assert config.layers_to_transform == (1 if layers == 1 else [0, 2])
    assert config.task_type == "FEATURE_EXTRACTION"


def test_the_file_does_not_depend_on_the_order_of_a_set(tmp_path):
    names = [f"unit{number}.conv" for number in range(9)]
    TunerConfig(target_modules=names[::-1]).save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == names
