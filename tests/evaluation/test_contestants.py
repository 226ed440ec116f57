"""Who takes part in a comparison, and under which names."""

import pytest

from peterrec.catalogue import names
from peterrec.errors import SettingsError
from peterrec.evaluation.contestants import contestants, named


def test_all_stands_for_every_other_adapter():
    assert named(["star", "all"], own="lora") == ["star", *(name for name in names("adapters") if name != "star")]
    assert named(["none", "full"], own="lora") == ["none", "full"]


def test_a_task_names_its_own_adapter_first():
    assert named(None, own="lora") == ["lora", "none", "full"]
    assert named(None, own="none") == ["none", "full"]


def test_the_random_control_takes_an_adapter_that_freezes():
    field = contestants(["full", "none"], ["random"])
    assert [(one.name, one.pretrained, one.adapter.tuner) for one, _ in field][-1] == ("random+none", False, "none")
    with pytest.raises(SettingsError, match="freezes the encoder"):
        contestants(["full"], ["random"])


def test_one_name_cannot_stand_for_two_contestants(tmp_path):
    mine = tmp_path / "serial.toml"
    mine.write_text('# Mine.\ntuner = "none"\n')
    for adapters in (["serial", "serial"], ["serial", str(mine)]):
        with pytest.raises(SettingsError, match="twice"):
            contestants(adapters, [])
    mine.rename(tmp_path / "oracle.toml")
    with pytest.raises(SettingsError, match="baseline"):
        contestants([str(tmp_path / "oracle.toml")], [])
