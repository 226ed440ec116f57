"""Settings of a patch: what is refused, and what is written."""

import json

import pytest
from peft import PeftConfig, TaskType

from peterrec.tuners import PatchConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placement": "serial"}, "placement must be one of serial_conv, serial_block, parallel_conv, parallel_unit"),
        ({"placement": ["serial_conv"]}, "placement"),
        ({"bottleneck": 0}, "bottleneck"),
        ({"bottleneck": "8"}, "bottleneck"),
        ({"bottleneck": True}, "bottleneck"),
        ({"activation": "tanh"}, "activation"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": "0.1"}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"train_norms": 1}, "train_norms"),
        ({"shortcut": "yes", "placement": "parallel_conv"}, "shortcut must be true or false"),
        ({"shortcut": True}, "shortcut belongs to the parallel placements"),
        ({"shortcut": True, "placement": "serial_block"}, "shortcut belongs"),
        ({"train_norms": True, "target_modules": r".*\.conv"}, "train_norms needs target_modules as a list"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PatchConfig(**settings)


def test_it_is_written_and_read(tmp_path):
    config = PatchConfig(placement="parallel_unit", bottleneck=3, activation="gelu", dropout=0.1, shortcut=True)
    config.save_pretrained(str(tmp_path))
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["peft_type"] == "PETERREC_PATCH"
    assert written["task_type"] == TaskType.FEATURE_EXTRACTION
    again = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(again, PatchConfig)
    assert again == config


def test_a_damaged_file_is_refused(tmp_path):
    PatchConfig().save_pretrained(str(tmp_path))
    file = tmp_path / "adapter_config.json"
    file.write_text(file.read_text().replace('"bottleneck": 8', '"bottleneck": "8"'))
    with pytest.raises(ValueError, match="bottleneck"):
        PeftConfig.from_pretrained(str(tmp_path))
