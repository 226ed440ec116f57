"""A task model's head trains beside the adapter (`modules_to_save`) and travels in its file."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file

LABELS = torch.tensor([0, 2, 1, 2])


def with_head(case, module="head"):
    config = case.config()
    config.modules_to_save = [module]
    return config


def test_a_head_is_trained_and_reloaded(case, tmp_path):
    ids = case.ids()
    model = case.wrap(case.task(), config=with_head(case))
    start = case.logits(model, ids)
    head = deepcopy(case.task().head.state_dict())
    case.train(model, labels=LABELS)
    case.save(model, tmp_path)
    assert not torch.equal(case.logits(model, ids), start)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    names = [name for name in saved if ".head." in name]
    assert len(names) == len(head)
    again = case.load(tmp_path, case.task())
    assert torch.equal(case.logits(again, ids), case.logits(model, ids))
    original = again.base_model.model.head.original_module.state_dict()
    assert all(torch.equal(tensor, head[name]) for name, tensor in original.items()), "the first head is kept"


def test_heads_differ_by_row_in_a_mixed_batch(own):
    # of modules_to_save, peft mixes plain layers only, so that the head's last map stands for the head
    ids, model = own.ids(), own.wrap(own.task(), config=with_head(own, "head.output"))
    own.train(model, labels=LABELS)
    model.add_adapter("second", with_head(own, "head.output"))
    model.set_adapter("second")
    own.train(model, labels=LABELS.flip(0), steps=6)
    alone = {"second": own.logits(model, ids), "__base__": own.logits(own.task(), ids)}
    model.set_adapter("default")
    alone["default"] = own.logits(model, ids)
    names = ["second", "default", "__base__", "second"]
    mixed = model(input_ids=ids, domain_ids=own.domain_ids(4), adapter_names=names).logits
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], alone[name][row], rtol=1e-5, atol=1e-5)


def test_whole_heads_in_a_mixed_batch_are_refused(own):
    ids, model = own.ids(), own.wrap(own.task(), config=with_head(own))
    with pytest.raises(TypeError, match="Mixed batching is only supported for"):
        model(input_ids=ids, domain_ids=own.domain_ids(4), adapter_names=["default", "__base__"] * 2)
