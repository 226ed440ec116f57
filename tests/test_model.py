"""The task model: what is frozen stays frozen and quiet."""

import torch

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.heads.classification import ClassificationHead
from peterrec.model import TaskModel


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
