"""What may be said of an encoder: each kind has its own settings, and no other."""

import pytest

from peterrec.encoders.config import UserEncoderConfig
from peterrec.encoders.loading import ENCODERS
from peterrec.encoders.readout import READOUTS
from peterrec.encoders.settings import KINDS, SOME, EncoderSettings
from peterrec.errors import SettingsError
from peterrec.settings import dump, find_field, load_settings, validate

# every field of a configuration that a user may not choose, and why
UNCHOSEN = {
    "vocab_size": "the vocabulary has it",
    "vocabulary_fingerprint": "the vocabulary has it",
    "pad_token_id": "fixed",
    "layer_norm_eps": "fixed",
    "initializer_range": "fixed",
    "ancestors": "pretrain --from writes them",
    "preserved": "pretrain --from writes them",
    "num_properties": "prepared logs have no properties of events",
    "property_size": "prepared logs have no properties of events",
}


def settings(**changes: object) -> EncoderSettings:
    return validate(EncoderSettings, changes, origin="test")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_its_configuration_and_the_defaults_of_its_own(kind):
    config = settings(kind=kind, hidden_size=16, dropout=0.1).config(vocab_size=53, fingerprint="abc")
    wanted = ENCODERS[kind][0](vocab_size=53, hidden_size=16, dropout=0.1, vocabulary_fingerprint="abc")  # type: ignore[call-arg]
    assert type(config) is type(wanted)
    assert config.to_dict() == wanted.to_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_the_descriptions_name_what_a_kind_takes_for_none(kind):
    config = ENCODERS[kind][0]()
    for name in set(SOME) & set(ENCODERS[kind][0].__dataclass_fields__):
        _, _, taken = str(EncoderSettings.model_fields[name].description).partition(" none: ")
        value = getattr(config, name)
        words = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
        assert words in taken, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_readout_is_that_of_the_kind_unless_it_is_chosen(kind):
    wanted = "sqrtn" if kind == "pooled" else "mean"
    assert ENCODERS[kind][0]().readout == wanted
    assert settings(kind=kind).readout is None
    assert settings(kind=kind).config(vocab_size=53, fingerprint="").readout == wanted
    assert settings(kind=kind, readout="last").config(vocab_size=53, fingerprint="").readout == "last"
    assert load_settings(EncoderSettings, overrides=["readout=none"]).readout is None
    assert str(EncoderSettings.model_fields["readout"].description).endswith("none: mean, sqrtn of pooled.")


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_kind_can_be_chosen(kind):
    from transformers import PreTrainedConfig

    fields = set(ENCODERS[kind][0].__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)
    assert fields - set(EncoderSettings.model_fields) <= set(UNCHOSEN)


def test_what_is_chosen_arrives():
    config = settings(kind="sasrec", heads=4, num_blocks=3, activation="relu", readout_layers=[0, -1]).config(
        vocab_size=53, fingerprint=""
    )
    assert (config.heads, config.num_blocks, config.activation) == (4, 3, "relu")
    assert list(config.readout_layers) == [0, -1]
    assert not settings(kind="nextitnet", causal=False).config(vocab_size=53, fingerprint="").causal
    assert settings(kind="grec", decoder_dilations=[1, 2]).config(vocab_size=53, fingerprint="").decoder_dilations == (
        1,
        2,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "nextitnet", "heads": 2}, "heads = 2: the encoder nextitnet has no such setting.*kind = sasrec"),
        ({"kind": "dupn", "dilations": [1, 2]}, "dilations.*encoder dupn has no such setting.*kind = nextitnet"),
        ({"kind": "sasrec", "causal": True}, "causal = True: the encoder sasrec"),
        ({"kind": "grec", "num_blocks": 2}, "num_blocks.*kind = sasrec or dupn"),
        ({"kind": "gru"}, "'nextitnet' or 'grec' or 'sasrec' or 'dupn'"),
        ({"readout": "first"}, "readout"),
        ({"readout_layers": []}, "readout_layers"),
    ],
)
def test_what_a_kind_does_not_have_is_refused_by_name(changes, message):
    with pytest.raises(SettingsError, match=message):
        settings(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sasrec", "heads": 7}, "heads must divide hidden_size"),
        ({"readout_layers": [9]}, "readout_layers must name different layers"),
        ({"kind": "nextitnet", "causal": False, "kernel_size": 2}, "odd kernel_size"),
        ({"readout_item_weights": True}, "readout_item_weights"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(SettingsError, match=f"encoder: .*{message}"):
        settings(**changes).config(vocab_size=53, fingerprint="")


def test_settings_are_read_back_as_they_were_written():
    chosen = settings(kind="sasrec", heads=4)
    assert load_settings(EncoderSettings, layers=[("run.json", dump(chosen))]) == chosen


def test_every_readout_can_be_chosen_and_each_is_described():
    for readout in READOUTS:
        assert settings(readout=readout).readout == readout
    for name in EncoderSettings.model_fields:
        field = find_field(EncoderSettings, name)
        assert field is not None
        assert field.field.description
    assert issubclass(ENCODERS["dupn"][0], UserEncoderConfig)
