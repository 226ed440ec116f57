"""What an encoder is pretrained for: the settings are those of the scripts that measured them."""

from pathlib import Path

import pytest

from peterrec.settings import load_settings
from peterrec.stages.pretrain import PretrainSettings
from peterrec.training.purposes import PURPOSES, purpose_layer

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.parametrize(
    ("purpose", "file", "but"),
    [("attributes", "transfer/pooled.toml", []), ("next_items", "next_item/sasrec.toml", ["validation_users"])],
)
def test_a_purpose_has_the_settings_that_were_measured(purpose, file, but):
    ours = load_settings(PretrainSettings, layers=[purpose_layer(purpose)]).model_dump()
    measured = load_settings(PretrainSettings, file=SCRIPTS / file).model_dump()
    for name in but:
        del ours["training"][name], measured["training"][name]
    assert ours == measured


def test_next_items_is_the_default():
    assert load_settings(PretrainSettings, layers=[purpose_layer("next_items")]) == load_settings(PretrainSettings)
    assert set(PURPOSES) == {"next_items", "attributes"}
