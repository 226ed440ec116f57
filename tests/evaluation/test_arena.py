"""Which adapter a task takes where none is asked for."""

import pytest

from peterrec.encoders import NextItNetConfig, PooledConfig, SASRecConfig
from peterrec.evaluation.arena import Plan
from peterrec.task_recipe import TaskRecipe


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (PooledConfig(vocab_size=9), "items_convex"),
        (SASRecConfig(vocab_size=9), "serial"),
        (NextItNetConfig(vocab_size=9), "serial"),
    ],
)
def test_the_adapter_fits_the_encoder_unless_the_task_names_one(config, wanted, tmp_path):
    config.save_pretrained(tmp_path)
    for named, found in (("auto", wanted), ("none", "none"), ("lora", "lora")):
        task = TaskRecipe(name="gender", column="gender", adapter=named)
        plan = Plan(task=task, overrides=(), encoder=tmp_path, seeds=(0,), source="gender", data=tmp_path, labels=None)
        assert plan.adapter == found
