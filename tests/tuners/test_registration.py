"""peft knows our tuners through its own registry."""

import pytest
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils.peft_types import PeftType

from peterrec.tuners import PatchConfig, PatchModel
from peterrec.tuners.registration import peft_type, register


def test_the_patch_is_a_member_of_pefts_enumeration():
    assert PeftType("PETERREC_PATCH") is PeftType.PETERREC_PATCH
    assert PeftType.PETERREC_PATCH in list(PeftType)
    assert PeftType.PETERREC_PATCH.value == "PETERREC_PATCH"
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.PETERREC_PATCH] is PatchConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.PETERREC_PATCH] is PatchModel


def test_a_name_that_peft_lists_is_left_as_it_is():
    before = list(PeftType)
    assert peft_type("lora") is PeftType.LORA
    assert list(PeftType) == before


def test_registering_twice_changes_nothing():
    register("peterrec_patch", PatchConfig, PatchModel)
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.PETERREC_PATCH] is PatchConfig


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="already knows"):
        register("peterrec_patch", PeftConfig, PatchModel)
