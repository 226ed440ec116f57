"""Adapters with fit = "convex": end to end on a pooled encoder, and where they do not fit."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from peterrec.adaptation import build
from peterrec.catalogue import adapter, task
from peterrec.data.prepared import open_prepared
from peterrec.data.reading import WHOLE
from peterrec.encoders.loading import load_encoder
from peterrec.encoders.nextitnet import NextItNet
from peterrec.encoders.nextitnet_config import NextItNetConfig
from peterrec.encoders.pooled import PooledItems
from peterrec.encoders.pooled_config import PooledConfig
from peterrec.errors import SettingsError
from peterrec.settings import load_settings
from peterrec.stages import finetune, pretrain
from peterrec.task_run import load_task
from peterrec.training.item_fit import check_convex, item_bags, item_scales


@pytest.fixture(scope="module")
def pooled_folder(prepared_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("pooled") / "encoder"
    settings = load_settings(
        pretrain.PretrainSettings,
        overrides=[
            "encoder.kind=pooled",
            "encoder.hidden_size=8",
            "encoder.dropout=0",
            "objective.next_item=0",
            "objective.bag=1",
            "training.epochs=1",
            "training.device=cpu",
        ],
    )
    pretrain.run(prepared_folder, output=output, settings=settings, progress="silent")
    return output


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    text = """
kind = "classification"
column = "gender"
readout = "encoder"
adapter = "items_convex"
class_weights = false
metrics = ["accuracy", "roc_auc"]
metric = "roc_auc"
max_length = "all"
seeds = [0]
head = { hidden = [], dropout = 0.0, fit = "newton" }
split = { by = "user", fractions = [0.70, 0.03, 0.27], stratified = true }
training = { epochs = 5 }
"""
    path = tmp_path_factory.mktemp("tasks") / "gender.toml"
    path.write_text(text)
    return path


def test_a_convex_adapter_end_to_end(pooled_folder, recipe, tmp_path):
    before = (pooled_folder / "model.safetensors").read_bytes()
    finetune.run(recipe, encoder=pooled_folder, output=tmp_path / "task", progress="silent")
    assert (pooled_folder / "model.safetensors").read_bytes() == before
    found = json.loads((tmp_path / "task" / "metrics.json").read_text())
    (start,) = found["curves"]
    assert start["epoch"] == 0, "nothing is left for steps"
    assert {"head_C", "item_share"} <= start.keys()
    loaded = load_task(tmp_path / "task").model
    table = loaded.base_encoder.embed_tokens
    frozen = load_encoder(pooled_folder).embed_tokens.weight
    assert torch.equal(table.base_layer.weight, frozen)
    values = next(result["metrics"]["roc_auc"] for result in found["results"] if result["role"] == "model")
    assert values["value"] > 0.6


def test_bags_are_what_the_readout_reads(prepared_folder, pooled_folder):
    histories = open_prepared(prepared_folder).sequences("histories")
    encoder = load_encoder(pooled_folder)
    rows = np.array([5, 0, 17])
    for kind in ("sqrtn", "mean"):
        bags = item_bags(histories, rows, kind=kind, max_length=WHOLE, vocab_size=encoder.config.vocab_size)
        encoder.reader.kind = kind
        for row, bag in zip(rows, bags.toarray(), strict=True):
            flat, _ = histories.gather(np.array([row]), np.array([0]), histories.lengths[[row]])
            vector = encoder(torch.from_numpy(flat.astype(np.int64))[None]).user_vector[0]
            torch.testing.assert_close(torch.from_numpy(bag).float() @ encoder.embed_tokens.weight, vector)
    scales = item_scales(histories, vocab_size=encoder.config.vocab_size)
    assert (np.diff(scales[3:]) >= -1e-12).all(), "rows of items are by falling count"


def test_it_reads_the_embeddings_of_encoders_with_blocks_too(encoder_folder, tmp_path):
    found = finetune.run(
        "gender",
        encoder=encoder_folder,
        output=tmp_path / "task",
        adapter_name="items_convex",
        overrides=["device=cpu"],
        progress="silent",
    )
    model = load_task(tmp_path / "task").model
    assert (model.reader.kind, model.reader.layers) == ("sqrtn", (0,))
    (start,) = found["curves"]
    assert {"head_C", "item_share"} <= start.keys()


def test_where_it_does_not_fit(recipe):
    own = adapter("items_convex")
    deep = NextItNet(NextItNetConfig(vocab_size=40, hidden_size=8, dilations=(1, 2)))
    for update in ({"layers": (-1,)}, {"readout": "last"}):
        model = build(deepcopy(deep), adapter=own.model_copy(update=update), task=task(recipe), num_classes=2)
        with pytest.raises(SettingsError, match="sums of item embeddings"):
            check_convex(model)
    hidden = task(recipe)
    hidden = hidden.model_copy(update={"head": hidden.head.model_copy(update={"hidden": (4,), "fit": "gradient"})})
    with pytest.raises(SettingsError, match=r"linear head.*head\.hidden = \[4\]"):
        build(deep, adapter=own, task=hidden, num_classes=2)


def test_a_rank_below_the_classes_is_refused(recipe):
    pooled = PooledItems(PooledConfig(vocab_size=40, hidden_size=8))
    model = build(pooled, adapter=adapter("items_convex"), task=task(recipe), num_classes=33)
    with pytest.raises(SettingsError, match=r"33 classes: set options\.r"):
        check_convex(model)
