"""An objective that an encoder cannot learn by is refused, with what it can."""

import pytest

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.grec import GRec
from peterrec.encoders.grec_config import GRecConfig
from peterrec.errors import SettingsError
from peterrec.objectives.serving import check_encoder
from peterrec.objectives.settings import ObjectiveSettings

SHAPE = {"vocab_size": 13, "hidden_size": 4}
ENCODERS = {
    "next_item": NextItNet(NextItNetConfig(dilations=(1, 1), **SHAPE)),
    "masked_item": NextItNet(NextItNetConfig(dilations=(1, 1), causal=False, **SHAPE)),
    "gap_filling": GRec(GRecConfig(encoder_dilations=(1, 1), decoder_dilations=(1, 1), **SHAPE)),
}


@pytest.mark.parametrize("wanted", list(ENCODERS))
@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_each_encoder_serves_one_position_level_objective(wanted, encoder):
    objective = ObjectiveSettings(**{"next_item": 0.0, wanted: 0.5, "contrast": 1.0})
    if wanted == encoder:
        check_encoder(objective, ENCODERS[encoder])
    else:
        with pytest.raises(SettingsError, match=rf"objective\.{wanted} = 0\.5 wants.*objective\.{encoder}=1"):
            check_encoder(objective, ENCODERS[encoder])


def test_user_level_objectives_go_with_every_encoder():
    for encoder in ENCODERS.values():
        check_encoder(ObjectiveSettings(next_item=0.0, contrast=1.0, bag=1.0), encoder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"readout": "attention"}, "readout = attention"),
        ({"readout": "attention", "readout_item_weights": True}, "readout = attention"),
        ({"readout_layers": [0, -1]}, "readout_layers names several layers"),
    ],
)
def test_a_readout_that_learns_wants_an_objective_that_trains_it(changes, told):
    encoder = NextItNet(NextItNetConfig(dilations=(1, 1), **SHAPE, **changes))
    with pytest.raises(SettingsError, match=rf"encoder\.{told}.*objective\.contrast or objective\.bag above 0"):
        check_encoder(ObjectiveSettings(), encoder)
    check_encoder(ObjectiveSettings(contrast=1.0), encoder)
    check_encoder(ObjectiveSettings(bag=0.1), encoder)


def test_one_layer_other_than_the_top_has_nothing_to_learn():
    for changes in ({"readout_layers": [0]}, {"readout": "sqrtn"}):
        check_encoder(ObjectiveSettings(), NextItNet(NextItNetConfig(dilations=(1, 1), **SHAPE, **changes)))
