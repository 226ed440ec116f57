"""The task model: what is frozen stays frozen and quiet."""

import pytest
import torch
from peft import LNTuningConfig, LoraConfig, PeftConfig, get_peft_model

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.pooled import PooledItems
from peterrec.encoders.pooled_config import PooledConfig
from peterrec.encoders.readout import read_out
from peterrec.heads.classification import ClassificationHead
from peterrec.model import TaskModel
from peterrec.tuners import PatchConfig


def make(**changes) -> TaskModel:
    torch.manual_seed(0)
    config = NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2), dropout=0.5)
    return TaskModel(NextItNet(config), ClassificationHead(8, 3, dropout=0.5), readout="mean", **changes)


def test_a_frozen_encoder_has_no_dropout_while_the_head_trains():
    model, ids = make(), torch.randint(3, 53, (4, 9))
    model.freeze_encoder()
    model.train()
    assert torch.equal(model.user_vectors(ids), model.user_vectors(ids))
    assert not torch.equal(model(ids).logits, model(ids).logits), "the head's dropout is on"
    assert not any(p.requires_grad for p in model.encoder.parameters())


def test_an_encoder_that_trains_has_its_dropout():
    model, ids = make().train(), torch.randint(3, 53, (4, 9))
    assert not torch.equal(model.user_vectors(ids), model.user_vectors(ids))


def test_the_loss_is_weighted_cross_entropy():
    weights = torch.tensor([1.0, 2.0, 4.0])
    model, ids = make(class_weights=weights).eval(), torch.randint(3, 53, (4, 9))
    labels = torch.tensor([0, 1, 2, 2])
    output = model(ids, labels=labels)
    picked = -torch.log_softmax(output.logits, 1)[torch.arange(4), labels]
    torch.testing.assert_close(output.loss, (picked * weights[labels]).sum() / weights[labels].sum())


def test_one_user_and_no_events_work():
    model = make().eval()
    assert model(torch.tensor([[5]])).logits.shape == (1, 3)
    assert model(torch.tensor([[0]])).logits.isfinite().all()


@pytest.mark.parametrize("readout", ["last", "tcl", "mean"])
def test_the_states_above_the_lower_blocks_give_the_same_vectors(readout):
    torch.manual_seed(0)
    config = NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2, 1, 1, 2, 1), initializer_range=0.5)
    encoder = NextItNet(config).double()
    model = TaskModel(encoder, ClassificationHead(8, 3).double(), readout=readout).eval()
    ids = torch.randint(3, 53, (5, 40), generator=torch.Generator().manual_seed(1))
    for row, length in enumerate((40, 17, 3, 1, 0)):
        ids[row, length:] = 0
    wanted = read_out(encoder(ids).last_hidden_state, ids.ne(0), readout)
    torch.testing.assert_close(model.user_vectors(ids), wanted, atol=1e-12, rtol=1e-10)
    for blocks in range(4):
        states, valid = model.states_above(blocks, ids)
        assert not states.requires_grad
        found = model.vectors_of_states(states, valid, first_block=blocks)
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)
        logits = model(states=states, attention_mask=valid, first_block=blocks).logits
        torch.testing.assert_close(logits, model(ids).logits, atol=1e-12, rtol=1e-10)
        if readout != "mean":
            assert states.shape[1] == 1 + 2 * sum((1, 2, 1, 1, 2, 1)[2 * blocks :])


def test_states_need_their_mask_and_stand_alone():
    model = make().eval()
    states = torch.zeros(2, 3, 8)
    with pytest.raises(ValueError, match="attention_mask"):
        model(states=states)
    with pytest.raises(ValueError, match="no input_ids"):
        model(torch.ones(2, 3, dtype=torch.long), states=states, attention_mask=torch.ones(2, 3))


def standing(config: PeftConfig | None, *, open_block: int | None = None, **changes) -> int:
    model = TaskModel(
        NextItNet(NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1,) * 8, dropout=0.2, **changes)),
        ClassificationHead(8, 3),
        readout="last",
    )
    model.freeze_encoder()
    if config is not None:
        model.encoder = get_peft_model(model.encoder, config)
    if open_block is not None:
        model.base_encoder.blocks[open_block].requires_grad_(True)
    return model.standing_blocks


def test_which_blocks_stand_still_is_found_in_the_weights():
    top = [2, 3]
    assert standing(None) == 4
    assert standing(None, open_block=3) == 3
    assert standing(None, open_block=0) == 0
    assert standing(PatchConfig(layers_to_transform=top)) == 2
    assert standing(PatchConfig(layers_to_transform=top), open_block=1) == 1
    assert standing(PatchConfig(layers_to_transform=top, trainable_token_indices={"embed_tokens": [2]})) == 0
    assert standing(PatchConfig()) == 0
    assert standing(LNTuningConfig(target_modules=["blocks.3.unit2.conv.linear"])) == 3
    assert standing(LoraConfig(target_modules=["blocks.1.unit1.conv.linear"], lora_dropout=0.1)) == 1
    assert standing(PatchConfig(layers_to_transform=top), tie_output=False) == 2
    assert make().standing_blocks == 0, "everything trains"


def test_an_encoder_without_blocks_stands_only_where_nothing_in_it_trains():
    encoder = PooledItems(PooledConfig(vocab_size=53, hidden_size=8))
    model = TaskModel(encoder, ClassificationHead(8, 3), readout="mean")
    assert not model.encoder_stands
    model.freeze_encoder()
    assert model.encoder_stands
    assert model.standing_blocks == 0
    ids = torch.tensor([[5, 6, 0]])
    torch.testing.assert_close(model.user_vectors(ids), encoder.embed_tokens.weight[[5, 6]].mean(0, keepdim=True))
