"""Which encoders keep user states, and what the others say."""

import pytest
import torch

from peterrec.encoders.loading import ENCODERS
from peterrec.encoders.user_state import UserState
from peterrec.errors import SettingsError

REFUSED = {
    "nextitnet, two-sided": (
        "nextitnet",
        {"dilations": (1, 2), "causal": False},
        "two-sided encoder keeps no user state",
    ),
    "grec": ("grec", {}, "two-sided encoder keeps no user state"),
    "sasrec": ("sasrec", {}, "The blocks of SASRec read all earlier events, of which a user state has no"),
    "dupn": ("dupn", {}, "The blocks of DUPN read all earlier events, of which a user state has no"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_encoder_that_is_not_causal_and_dilated_keeps_no_user_state(name):
    kind, shape, message = REFUSED[name]
    config, model = ENCODERS[kind]
    encoder = model(config(vocab_size=53, hidden_size=8, **shape)).eval()
    with pytest.raises(SettingsError, match=message):
        UserState.of(encoder, torch.tensor([[3, 4, 5]]))
