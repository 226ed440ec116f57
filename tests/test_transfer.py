"""Contestants: what trains and what stays, through the real training loop; interrupted runs; shared names."""

import json

import numpy as np
import pytest
import torch

from peterrec.catalogue import AdapterRecipe, adapter, task
from peterrec.data.attribute import read_attribute, split_users
from peterrec.data.prepared import open_prepared
from peterrec.encoders.loading import load_encoder
from peterrec.errors import DataError, SettingsError
from peterrec.stages import compare, finetune
from peterrec.training.finetuning import ClassificationProgram, FinetuningSettings, LabelledUsers
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker
from peterrec.transfer import Contestant, build, fit


def settings(**changes) -> FinetuningSettings:
    return FinetuningSettings.model_validate({"epochs": 2, "device": "cpu", "weight_decay": 0.5, **changes})


def fitted(recipe: AdapterRecipe, encoder_folder, prepared_folder, *, pretrained=True, readout="mean"):
    prepared = open_prepared(prepared_folder)
    gender = task("gender").model_copy(update={"readout": readout})
    attribute = read_attribute(prepared, column="gender")
    return fit(
        Contestant(recipe.name, recipe, pretrained=pretrained),
        encoder_folder=encoder_folder,
        task=gender,
        settings=settings(),
        histories=prepared.sequences("histories"),
        attribute=attribute,
        split=split_users(attribute, fractions=(0.7, 0.03, 0.27), stratified=True, seed=0),
        checkpoints=None,
        metrics_file=None,
        tracker=Tracker(),
        progress=Progress("silent"),
        keep_model=True,
    )


def encoder_weights(model) -> dict[str, torch.Tensor]:
    """The weights of the encoder inside a task model, under their names in the encoder."""
    found = {}
    for name, tensor in model.state_dict().items():
        if ".peterrec_patch_" in name or "trainable_tokens" in name or "encoder." not in name:
            continue
        if ".modules_to_save." in name:
            continue
        plain = name.split("encoder.", 1)[1].removeprefix("base_model.model.")
        for part in (".base_layer", ".token_adapter", ".original_module"):
            plain = plain.replace(part, "")
        found[plain] = tensor
    return found


@pytest.mark.parametrize("readout", ["mean", "tcl"])
@pytest.mark.parametrize("name", ["none", "serial"])
def test_frozen_weights_are_byte_identical_after_training_with_weight_decay(
    name, readout, encoder_folder, prepared_folder
):
    result = fitted(adapter(name), encoder_folder, prepared_folder, readout=readout)
    before = load_encoder(encoder_folder).state_dict()
    after = encoder_weights(result.model)
    assert set(after) == set(before)
    for key, tensor in before.items():
        assert tensor.numpy().tobytes() == after[key].numpy().tobytes(), key
    assert result.trained_parameters < result.parameters / 2


def test_full_fine_tuning_changes_the_encoder_and_scratch_starts_elsewhere(encoder_folder, prepared_folder):
    before = load_encoder(encoder_folder).state_dict()["embed_tokens.weight"]
    full = encoder_weights(fitted(adapter("full"), encoder_folder, prepared_folder).model)["embed_tokens.weight"]
    scratch = fitted(adapter("full"), encoder_folder, prepared_folder, pretrained=False)
    assert not torch.equal(full, before)
    near, far = (full - before).norm(), (encoder_weights(scratch.model)["embed_tokens.weight"] - before).norm()
    assert near < far / 3


def test_blocks_and_norms_of_a_patch_recipe(encoder_folder):
    encoder = load_encoder(encoder_folder)  # one block of two convolutions
    recipe = adapter("serial")
    assert recipe.patch is not None
    norms = recipe.model_copy(update={"patch": recipe.patch.model_copy(update={"train_norms": True, "blocks": 1})})
    model = build(encoder, adapter=norms, task=task("gender"), num_classes=2)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {
        name.split(".modules_to_save")[0].split("base_model.model.")[1] for name in trained if ".norm." in name
    } == {
        "blocks.0.unit1.norm",
        "blocks.0.unit2.norm",
    }
    many = recipe.model_copy(update={"patch": recipe.patch.model_copy(update={"blocks": 9})})
    with pytest.raises(SettingsError, match="the encoder has 1 blocks"):
        build(load_encoder(encoder_folder), adapter=many, task=task("gender"), num_classes=2)


def test_head_only_trains_on_vectors_that_are_computed_once(encoder_folder, prepared_folder, monkeypatch):
    calls = []
    encoder_class = type(load_encoder(encoder_folder))
    forward = encoder_class.forward
    monkeypatch.setattr(encoder_class, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    fitted(adapter("none"), encoder_folder, prepared_folder)
    assert len(calls) == 3, "training, validation and test users, one batch each, whatever the number of epochs"


def test_validation_users_of_one_class_are_refused_before_training(encoder_folder, prepared_folder):
    prepared = open_prepared(prepared_folder)
    model = build(load_encoder(encoder_folder), adapter=adapter("none"), task=task("gender"), num_classes=2)
    users = LabelledUsers(np.arange(10), np.arange(10) % 2)
    with pytest.raises(DataError, match="one class"):
        ClassificationProgram(
            model,
            histories=prepared.sequences("histories"),
            train=users,
            validation=LabelledUsers(np.arange(3), np.zeros(3, dtype=np.int64)),
            metric="roc_auc",
            max_length=50,
            settings=settings(),
        )


def test_set_wins_over_the_adapter_and_the_adapter_over_the_task(encoder_folder):
    from peterrec.evaluation.arena import resolve

    full = adapter("full")

    def rate(recipe, *overrides):
        plan = resolve("gender", encoder=encoder_folder, data=None, seeds=None, labels=None, overrides=overrides)
        return plan.settings(recipe).learning_rate

    assert rate(full) == full.learning_rate != task("gender").training["learning_rate"]
    own = full.model_copy(update={"learning_rate": None})
    assert rate(own) == task("gender").training["learning_rate"]
    assert rate(full, "learning_rate=0.5") == 0.5
    with pytest.raises(SettingsError, match="--seeds"):
        rate(full, "seed=3")


def interrupting(monkeypatch, *, after: int) -> list[int]:
    """Makes the loss raise once, at call number `after`; counts the calls."""
    loss, calls = ClassificationProgram.loss, []

    def once(self, step, device):
        calls.append(1)
        if len(calls) == after:
            raise KeyboardInterrupt
        return loss(self, step, device)

    monkeypatch.setattr(ClassificationProgram, "loss", once)
    return calls


def test_an_interrupted_finetune_goes_on_and_ends_the_same(encoder_folder, tmp_path, monkeypatch):
    def run(output):
        return finetune.run(
            "gender",
            encoder=encoder_folder,
            output=output,
            seeds=[0, 1],
            overrides=["epochs=3", "device=cpu"],
            progress="silent",
        )

    whole = run(tmp_path / "whole")
    per_epoch = 4  # 252 training users in batches of 64
    calls = interrupting(monkeypatch, after=3 * per_epoch + per_epoch + 2)  # the second seed's second epoch
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken")
    assert not (tmp_path / "broken" / "run.json").exists()
    again = run(tmp_path / "broken")
    assert len(calls) == 2 * 3 * per_epoch + 2, "only what was lost since the last checkpoint is done again"
    for file in ("adapter_model.safetensors", "predictions.parquet"):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert again["results"][0]["metrics"] == whole["results"][0]["metrics"]


def test_a_resume_on_other_data_is_refused(encoder_folder, prepared_folder, tmp_path, monkeypatch):
    import shutil

    import pyarrow.parquet as pq

    other = tmp_path / "other"
    shutil.copytree(prepared_folder, other)
    table = pq.read_table(other / "users.parquet")
    pq.write_table(table.slice(0, len(table) - 50), other / "users.parquet")

    def run(data):
        return finetune.run(
            "gender",
            encoder=encoder_folder,
            data=data,
            output=tmp_path / "task",
            overrides=["epochs=2", "device=cpu"],
            progress="silent",
        )

    interrupting(monkeypatch, after=7)
    with pytest.raises(KeyboardInterrupt):
        run(prepared_folder)
    with pytest.raises(SettingsError, match="data"):
        run(other)


def test_one_name_cannot_stand_for_two_contestants(encoder_folder, tmp_path):
    mine = tmp_path / "serial.toml"
    mine.write_text('# Mine.\ntuner = "none"\n')
    for adapters in (["serial", "serial"], ["serial", str(mine)]):
        with pytest.raises(SettingsError, match="twice"):
            compare.contestants(adapters, [])
    mine.rename(tmp_path / "oracle.toml")
    with pytest.raises(SettingsError, match="baseline"):
        compare.contestants([str(tmp_path / "oracle.toml")], [])


class Recording(Tracker):
    """Remembers what it is told."""

    def __init__(self):
        self.steps, self.names, self.artifacts, self.tables = [], set(), [], []

    def log(self, metrics, *, step):
        self.steps.append(step)
        self.names |= set(metrics)

    def table(self, name, *, columns, rows):
        self.tables.append((name, list(columns), [list(row) for row in rows]))

    def artifact(self, name, *, type, files, uses=()):
        assert all(file.is_file() for file in files)
        self.artifacts.append((name, type, tuple(uses)))


def test_the_tracker_gets_every_seed_and_contestant_on_steps_that_never_fall(encoder_folder, tmp_path, monkeypatch):
    tracker = Recording()
    monkeypatch.setattr(compare, "open_tracker", lambda *_, **__: tracker)
    compare.run(
        "gender",
        encoder=encoder_folder,
        output=tmp_path / "c",
        adapters=["none", "serial"],
        controls=[],
        seeds=[0, 1],
        overrides=["epochs=2", "device=cpu"],
        progress="silent",
    )
    assert tracker.steps == sorted(tracker.steps)
    assert len(tracker.steps) == 2 * 2 * 2
    for name in ("none", "serial"):
        for seed in (0, 1):
            assert f"{name}/seed-{seed}/train/loss" in tracker.names
    (artifact,) = tracker.artifacts
    revision = json.loads((tmp_path / "c" / "run.json").read_text())["settings"]["encoder_revision"]
    assert artifact == ("comparison-gender", "comparison", (f"encoder-{revision}",))
    ((name, columns, rows),) = tracker.tables
    assert name == "comparison"
    assert {row[0] for row in rows} >= {"none", "serial", "bag_of_items", "oracle"}
    assert all(len(row) == len(columns) for row in rows)
