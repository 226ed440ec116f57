"""Which weights decay: matrices, and not the vectors that peft keeps in the shape of matrices."""

import pytest
import torch
from accelerate import Accelerator

from peterrec import catalogue
from peterrec.adaptation import adapt
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.training.optimizer import Updater
from peterrec.training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("adapter", "decays"),
    [("ia3", 0), ("tcl", 0), ("biases", 0), ("ln_tuning", 0), ("serial", 2 * 4), ("lora", 2 * 4), ("star", 2 * 4)],
)
def test_what_rests_elsewhere_than_at_zero_does_not_decay(adapter, decays):
    encoder = NextItNet(NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2, 4, 8)))
    model = adapt(encoder, catalogue.adapter(adapter), readout="tcl")
    settings = TrainingSettings.model_validate({"weight_decay": 0.3})
    updater = Updater(model, settings=settings, accelerator=Accelerator(cpu=True))
    decaying = [p for group in updater.optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    assert len(decaying) == decays
    assert sum(len(group["params"]) for group in updater.optimizer.param_groups) == len(updater.parameters)
    assert all(not torch.equal(p, torch.ones_like(p)) for p in decaying)
