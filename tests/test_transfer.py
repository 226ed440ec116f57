"""Contestants: what trains and what stays, through the real training loop; interrupted runs; shared names."""

import json

import numpy as np
import pytest
import torch

from peterrec.adaptation import build
from peterrec.catalogue import AdapterRecipe, adapter, task
from peterrec.data.attribute import read_attribute, split_users
from peterrec.data.prepared import open_prepared
from peterrec.encoders.loading import load_encoder
from peterrec.errors import DataError, SettingsError
from peterrec.evaluation import classification_study
from peterrec.inference import user_vectors
from peterrec.stages import compare, finetune
from peterrec.task_run import load_task
from peterrec.training.finetuning import ClassificationProgram, FinetuningSettings, LabelledUsers, predict
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker
from peterrec.transfer import Contestant, fit


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


@pytest.mark.parametrize("name", ["tcl", "lora", "last_1", "parallel_published"])
def test_a_run_with_any_tuner_predicts_the_same_once_loaded(name, encoder_folder, tmp_path, monkeypatch):
    kept = []
    save_task = classification_study.save_task
    monkeypatch.setattr(
        classification_study, "save_task", lambda model, **k: kept.append(model) or save_task(model, **k)
    )
    finetune.run(
        "gender",
        encoder=encoder_folder,
        output=tmp_path / name,
        adapter_name=name,
        seeds=[0],
        overrides=["epochs=2", "device=cpu"],
        progress="silent",
    )
    loaded = load_task(tmp_path / name)
    assert loaded.model.readout == (adapter(name).readout or task("gender").readout)
    ids = torch.tensor([[5, 6, 7, 8, 2], [9, 3, 2, 0, 0]])
    with torch.no_grad():
        expected = kept[0].eval()(ids).logits
        torch.testing.assert_close(loaded.model(ids).logits, expected, rtol=0, atol=1e-6)


def test_head_only_trains_on_vectors_that_are_computed_once(encoder_folder, prepared_folder, monkeypatch):
    calls = []
    encoder_class = type(load_encoder(encoder_folder))
    forward = encoder_class.forward
    monkeypatch.setattr(encoder_class, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    fitted(adapter("none"), encoder_folder, prepared_folder)
    assert len(calls) == 4, "two batches of training users, one of validation and test users, whatever the epochs"


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


def same_but_for_cost(value):
    """Metrics without what differs from run to run: times and memory."""
    if isinstance(value, dict):
        cost = ("seconds", "search_seconds", "peak_memory_bytes", "targets_per_second")
        return {key: same_but_for_cost(part) for key, part in value.items() if key not in cost}
    return [same_but_for_cost(part) for part in value] if isinstance(value, list) else value


def test_an_interrupted_comparison_repeats_no_finished_training_and_ends_the_same(
    encoder_folder, tmp_path, monkeypatch
):
    def run(output):
        return compare.run(
            "gender",
            encoder=encoder_folder,
            output=output,
            adapters=["serial", "none"],
            controls=[],
            learning_rates=[1e-3, 1e-2],
            seeds=[0, 1],
            overrides=["epochs=2", "device=cpu"],
            progress="silent",
        )

    whole = run(tmp_path / "whole")
    per_training = 2 * 4  # epochs of 252 training users in batches of 64
    # serial at both rates and on the second seed, none at its first rate, then in the second epoch of its next
    calls = interrupting(monkeypatch, after=4 * per_training + 4 + 2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken")
    work = tmp_path / "broken" / "checkpoints"
    assert {folder.name for folder in work.iterdir()} == {"finished", "none-seed-0-rate-0.01"}
    chosen = whole["results"][0]["learning_rate"]
    assert {folder.name for folder in (work / "finished").iterdir()} == {
        "serial-seed-0-rate-0.001",
        "serial-seed-0-rate-0.01",
        f"serial-seed-1-rate-{chosen}",
        "none-seed-0-rate-0.001",
    }
    assert not [file for file in work.rglob("*") if file.is_file() and file.suffix not in (".safetensors", ".json")]
    again = run(tmp_path / "broken")
    assert len(calls) == 2 * 3 * per_training + 2, "only what was lost since the last checkpoint is done again"
    assert same_but_for_cost(again) == same_but_for_cost(whole)
    predicted = [(tmp_path / name / "predictions.parquet").read_bytes() for name in ("broken", "whole")]
    assert predicted[0] == predicted[1]
    assert not work.exists()


def test_each_contestant_takes_the_rate_that_is_best_on_validation_users(encoder_folder, tmp_path):
    rates = [1e-6, 1e-2]
    metrics = compare.run(
        "gender",
        encoder=encoder_folder,
        output=tmp_path / "c",
        adapters=["none", "full"],
        controls=["scratch"],
        learning_rates=rates,
        overrides=["epochs=2", "device=cpu", "warmup=0"],
        progress="silent",
    )
    trained = [result for result in metrics["results"] if result["role"] in ("model", "control")]
    assert [result["name"] for result in trained] == ["none", "full", "scratch"]
    for result in trained:
        tried = {entry["learning_rate"]: entry["validation"] for entry in result["search"]}
        assert list(tried) == rates
        assert result["learning_rate"] == min(rates, key=lambda rate: (-tried[rate], rate))
        shown = [entry["validation"]["roc_auc"] for entry in metrics["curves"] if entry["name"] == result["name"]]
        assert max(shown) == tried[result["learning_rate"]]
        assert result["search_seconds"] > result["seconds"] > 0
        assert result["peak_memory_bytes"] is None or result["peak_memory_bytes"] > 2**20
    none, full = trained[0]["adapter_bytes"], trained[1]["adapter_bytes"]
    assert none < 4 * trained[0]["trained_parameters"] + 4096
    assert full > 4 * trained[1]["trained_parameters"] > none
    assert "best roc_auc on validation users of seed 0" in metrics["protocol"]
    assert (metrics["reference"], metrics["learning_rates"]) == ("full", rates)
    assert [gain["of"] for gain in metrics["gains"] if gain["over"] == "full"] == ["none", "none"]
    assert any("edge of the grid" in note for note in metrics["notes"])


def test_a_comparison_at_the_recipes_own_rates_searches_for_none(encoder_folder, tmp_path):
    metrics = compare.run(
        "gender",
        encoder=encoder_folder,
        output=tmp_path / "c",
        adapters=["none", "full"],
        controls=[],
        learning_rates=None,
        overrides=["epochs=1", "device=cpu"],
        progress="silent",
    )
    rates = {result["name"]: result.get("learning_rate") for result in metrics["results"]}
    for name in ("none", "full"):
        assert rates[name] == (adapter(name).learning_rate or task("gender").training["learning_rate"])
    assert len({rates["none"], rates["full"]}) == 2
    assert metrics["results"][0]["search"] == metrics["notes"] == []
    assert "none was searched for" in metrics["protocol"]


def test_a_rate_that_is_set_beside_a_grid_is_refused(encoder_folder, tmp_path):
    with pytest.raises(SettingsError, match=r"--learning-rates 0\.1 instead"):
        compare.run("gender", encoder=encoder_folder, output=tmp_path / "c", overrides=["training.learning_rate=0.1"])
    with pytest.raises(SettingsError, match="--learning-rates"):
        compare.run("gender", encoder=encoder_folder, output=tmp_path / "c", learning_rates=[])
    assert not (tmp_path / "c").exists()


def test_a_training_that_diverged_is_not_made_again(encoder_folder, tmp_path, monkeypatch):
    from peterrec.errors import DivergedError

    loss, calls = ClassificationProgram.loss, []

    def burst(self, step, device):
        calls.append(1)
        found, users = loss(self, step, device)
        return (found * float("nan"), users) if self._settings.learning_rate > 1 else (found, users)

    def run():
        return compare.run(
            "gender",
            encoder=encoder_folder,
            output=tmp_path / "c",
            adapters=["none"],
            controls=[],
            learning_rates=[2.0, 3.0],
            overrides=["epochs=1", "device=cpu"],
            progress="silent",
        )

    monkeypatch.setattr(ClassificationProgram, "loss", burst)
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"No adapter could be trained.*none, seed 0, learning rate 3"):
            run()
    assert len(calls) == 2


def test_one_adapter_that_diverges_does_not_take_the_comparison_with_it(encoder_folder, tmp_path, monkeypatch):
    loss = ClassificationProgram.loss

    def burst(self, step, device):
        found, users = loss(self, step, device)
        return (found * float("nan"), users) if self.model.standing_blocks == 0 else (found, users)

    monkeypatch.setattr(ClassificationProgram, "loss", burst)
    found = compare.run(
        "gender",
        encoder=encoder_folder,
        output=tmp_path / "c",
        adapters=["full", "none"],
        controls=["scratch"],
        learning_rates=[1e-3],
        labels=100,
        overrides=["epochs=1", "device=cpu"],
        progress="silent",
    )
    assert [one["name"] for one in found["results"] if one["role"] in ("model", "control")] == ["none"]
    assert [note.split(" is not")[0] for note in found["notes"] if "is not in the table" in note] == ["full", "scratch"]
    card = (tmp_path / "c" / "README.md").read_text()
    for part in ("--adapter none", "--labels 100", "--set epochs=1", "--set learning_rate=0.001"):
        assert part in card


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
    monkeypatch.setattr("peterrec.training.tracked_run.open_tracker", lambda *_, **__: tracker)
    compare.run(
        "gender",
        encoder=encoder_folder,
        output=tmp_path / "c",
        adapters=["none", "serial"],
        controls=[],
        learning_rates=[1e-3, 1e-2],
        seeds=[0, 1],
        overrides=["epochs=2", "device=cpu"],
        progress="silent",
    )
    assert tracker.steps == sorted(tracker.steps)
    assert len(tracker.steps) == 2 * 2 * 3  # epochs of two contestants, twice on the first seed, once on the second
    for name in ("none", "serial"):
        for rate in ("0.001", "0.01"):
            assert f"{name}/rate-{rate}/seed-0/train/loss" in tracker.names
        assert len([found for found in tracker.names if found.startswith(name) and "seed-1/train/loss" in found]) == 1
    (artifact,) = tracker.artifacts
    revision = json.loads((tmp_path / "c" / "run.json").read_text())["settings"]["encoder_revision"]
    assert artifact == ("comparison-gender", "comparison", (f"encoder-{revision}",))
    ((name, columns, rows),) = tracker.tables
    assert name == "comparison"
    assert {row[0] for row in rows} >= {"none", "serial", "bag_of_items", "oracle"}
    assert all(len(row) == len(columns) for row in rows)


WINNING = """
kind = "classification"
column = "gender"
readout = "attention"
layers = [0, -1]
item_weights = true
max_length = "all"
window = 10
metric = "roc_auc"

[head]
fit = "newton"

[training]
epochs = 2
learning_rate = 1e-2
"""


@pytest.mark.parametrize("tuner", ["none", "serial", "full"])
def test_readouts_of_whole_histories_and_a_fitted_head_come_back_as_they_were(
    tuner, encoder_folder, tmp_path, monkeypatch
):
    kept = []
    save_task = classification_study.save_task
    monkeypatch.setattr(
        classification_study, "save_task", lambda model, **k: kept.append(model) or save_task(model, **k)
    )
    (tmp_path / "mine.toml").write_text(WINNING, encoding="utf-8")
    metrics = finetune.run(
        tmp_path / "mine.toml",
        encoder=encoder_folder,
        output=tmp_path / tuner,
        adapter_name=tuner,
        seeds=[0],
        overrides=["device=cpu"],
        progress="silent",
    )
    assert [entry["epoch"] for entry in metrics["curves"]] == [0, 1, 2]
    assert metrics["curves"][0]["head_C"] > 0
    model = load_task(tmp_path / tuner).model
    assert model.reader.trains
    wanted, found = kept[0].state_dict(), model.state_dict()
    names = {name for name in wanted if name.startswith(("reader.", "head."))}
    assert {"reader.query", "reader.mix", "reader.item_weights", "head.norm.center", "head.norm.scale"} <= names
    for name in names:
        assert torch.equal(wanted[name], found[name]), name
    facts = load_task(tmp_path / tuner).facts
    prepared = open_prepared(facts_data(tmp_path / tuner))
    histories = prepared.sequences("histories")
    told = json.loads((tmp_path / tuner / "run.json").read_text())["model"]
    assert told["task"]["max_length"] == "all"
    cpu = torch.device("cpu")
    one, other = (predict(m, histories, max_length=facts.max_length, device=cpu) for m in (kept[0], model))
    np.testing.assert_array_equal(one, other)
    shorter = predict(model, histories, max_length=5, device=cpu)
    assert not np.allclose(one, shorter)


def facts_data(folder):
    return (folder / json.loads((folder / "run.json").read_text())["inputs"]["data"]).resolve()


def test_a_head_alone_makes_no_step_and_learns_from_the_validation_users_too(encoder_folder, tmp_path):
    text = WINNING.replace("item_weights = true", "train_readout = false")
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    metrics = finetune.run(
        tmp_path / "mine.toml",
        encoder=encoder_folder,
        output=tmp_path / "out",
        adapter_name="none",
        seeds=[0],
        overrides=["device=cpu"],
        progress="silent",
    )
    (record,) = metrics["curves"]
    assert (record["epoch"], record["step"], record["loss"]) == (0, 0, None)
    assert record["head_C"] > 0
    assert (tmp_path / "out" / "report.html").is_file()
    loaded = load_task(tmp_path / "out")
    prepared = open_prepared(facts_data(tmp_path / "out"))
    attribute = read_attribute(prepared, column="gender")
    split = split_users(attribute, fractions=(0.7, 0.03, 0.27), stratified=True, seed=0)
    learned = attribute.rows[np.concatenate([split.train, split.validation])]
    model = loaded.model
    with torch.no_grad():
        vectors = user_vectors(
            model.base_encoder,
            prepared.sequences("histories"),
            rows=learned,
            max_length=loaded.facts.max_length,
            readout=model.reader,
            window=model.window,
            device=torch.device("cpu"),
        )
    torch.testing.assert_close(model.head.norm.center, vectors.double().mean(0).float(), atol=1e-5, rtol=1e-4)
