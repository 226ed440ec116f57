"""Properties of the encoder: causality, exact padding, readouts, save and load."""

import pytest
import torch
from transformers import AutoModel

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.readout import READOUTS


def make(**changes) -> NextItNet:
    torch.manual_seed(0)
    settings = {"vocab_size": 53, "hidden_size": 8, "dilations": (1, 2, 4, 8), "initializer_range": 0.5}
    return NextItNet(NextItNetConfig(**{**settings, **changes})).eval()


def items(*shape: int) -> torch.Tensor:
    return torch.randint(3, 53, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
def test_a_causal_encoder_never_sees_the_future(block):
    encoder, ids = make(block=block), items(2, 20)
    before = encoder(ids).last_hidden_state
    changed = ids.clone()
    changed[:, 12] = (changed[:, 12] - 3 + 7) % 50 + 3
    after = encoder(changed).last_hidden_state
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12:], after[:, 12:])


def test_the_receptive_field_is_what_the_configuration_says():
    encoder = make(dilations=(1, 2))
    assert encoder.config.receptive_field == 7
    ids = items(1, 12)
    before = encoder(ids).last_hidden_state[0, -1]
    for back in range(1, 12):
        changed = ids.clone()
        changed[0, -1 - back] = (changed[0, -1 - back] - 3 + 7) % 50 + 3
        same = torch.equal(before, encoder(changed).last_hidden_state[0, -1])
        assert same == (back >= 7), back


def test_a_two_sided_encoder_sees_the_future():
    encoder, ids = make(causal=False), items(2, 20)
    changed = ids.clone()
    changed[:, 12] = (changed[:, 12] - 3 + 7) % 50 + 3
    assert not torch.equal(encoder(ids).last_hidden_state[:, 11], encoder(changed).last_hidden_state[:, 11])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("block", ["plain", "bottleneck"])
@pytest.mark.parametrize("readout", READOUTS)
def test_the_output_does_not_depend_on_padding(block, causal, readout):
    encoder = make(block=block, causal=causal, readout=readout)
    ids = items(1, 9)
    alone = encoder(ids)
    for left, right in ((0, 5), (5, 0), (7, 30)):
        padded = encoder(torch.nn.functional.pad(ids, (left, right)))
        torch.testing.assert_close(
            padded.last_hidden_state[:, left : left + 9], alone.last_hidden_state, atol=1e-6, rtol=0
        )
        torch.testing.assert_close(padded.user_vector, alone.user_vector, atol=1e-6, rtol=0)
        assert not padded.last_hidden_state[:, left + 9 :].any()


@pytest.mark.parametrize("readout", READOUTS)
def test_a_batch_equals_its_rows_one_by_one(readout):
    encoder = make(readout=readout)
    lengths = [9, 1, 0, 6]
    ids = items(4, 9)
    for row, length in enumerate(lengths):
        ids[row, length:] = 0
    together = encoder(ids).user_vector
    for row, length in enumerate(lengths):
        alone = encoder(ids[row : row + 1, : max(length, 1)]).user_vector
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-6, rtol=0)
    assert not together[2].any(), "a user without events has the zero vector"


def test_readouts_are_what_they_say():
    ids = items(1, 6)
    for readout, wanted in (
        ("last", lambda h: h[:, -1]),
        ("tcl", lambda h: h[:, -1]),
        ("mean", lambda h: h.mean(1)),
    ):
        output = make(readout=readout)(ids)
        torch.testing.assert_close(output.user_vector, wanted(output.last_hidden_state))


def test_attention_mask_hides_positions_like_padding():
    encoder, ids = make(), items(2, 9)
    mask = torch.ones_like(ids)
    mask[:, 6:] = 0
    torch.testing.assert_close(encoder(ids, attention_mask=mask).user_vector, encoder(ids[:, :6]).user_vector)


def test_embeddings_may_be_given_in_place_of_items():
    encoder, ids = make(), items(2, 9)
    vectors = encoder.get_input_embeddings()(ids)
    wanted = encoder(ids).last_hidden_state
    torch.testing.assert_close(encoder(inputs_embeds=vectors).last_hidden_state, wanted)
    with pytest.raises(ValueError, match="either"):
        encoder()


def test_all_hidden_states_on_request():
    states = make()(items(2, 9), output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(2, 9, 8)] * 3


@pytest.mark.parametrize("tie_output", [True, False])
def test_auto_classes_save_and_load(tmp_path, tie_output):
    encoder, ids = make(tie_output=tie_output), items(2, 9)
    encoder.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(again, NextItNet)
    assert torch.equal(encoder(ids).user_vector, again(ids).user_vector)
    assert torch.equal(encoder.score_table(), again.score_table())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": "plane"}, "block"),
        ({"readout": "first"}, "readout"),
        ({"dilations": (1, 2, 4)}, "dilations"),
        ({"dilations": (1, 0)}, "dilations"),
        ({"block": "bottleneck", "hidden_size": 7}, "even"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(Exception, match=message):
        NextItNetConfig(**{"vocab_size": 53, **changes})
