"""Which objectives an encoder can serve."""

from peterrec.encoders.base import UserEncoder
from peterrec.encoders.grec import GRec
from peterrec.errors import SettingsError
from peterrec.objectives.settings import ObjectiveSettings

WANTS = {
    "next_item": "a causal encoder, since a state that sees the next item has nothing to predict",
    "masked_item": "a two-sided encoder, whose states see what comes after a gap",
    "gap_filling": "the encoder grec, whose decoder knows what stood in the gaps before",
}


def check_encoder(objective: ObjectiveSettings, encoder: UserEncoder) -> None:
    """Raises SettingsError for an objective with weight that `encoder` cannot learn by, saying which one it can.

    And for a readout with weights of its own that no objective with weight would train.
    """
    if isinstance(encoder, GRec):
        serves, what = "gap_filling", "grec"
    elif encoder.config.causal:
        serves, what = "next_item", "causal"
    else:
        serves, what = "masked_item", "two-sided"
    for name in objective.position_level:
        if name != serves:
            raise SettingsError(
                f"objective.{name} = {objective.weights[name]:g} wants {WANTS[name]}, but this encoder is {what}; set "
                f"objective.{name}=0 and, if positions shall be predicted, objective.{serves}=1, or choose another "
                "encoder."
            )
    if not objective.user_level and any(True for _ in encoder.reader.parameters()):
        config = encoder.config
        named = "readout = attention" if config.readout == "attention" else "readout_layers names several layers"
        raise SettingsError(
            f"encoder.{named}, whose weights only objectives that compare users train: set objective.contrast or "
            "objective.bag above 0, or leave the readout to a task, which may learn its own."
        )
