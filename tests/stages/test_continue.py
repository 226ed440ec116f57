"""Going on from an encoder on a new day's log: rows, files, figures, adapters, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from peterrec import catalogue
from peterrec.adaptation import build
from peterrec.adapter_file import load_adapter
from peterrec.cli import app
from peterrec.data.prepared import open_prepared
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders.loading import encoder_revision, open_encoder
from peterrec.errors import DataError, RefusedError, SettingsError
from peterrec.evaluation.next_item import evaluate_next_item
from peterrec.run_folder import output_folder
from peterrec.run_record import relative_to_run
from peterrec.settings import dump, load_settings
from peterrec.stages import evaluate, predict, prepare, pretrain
from peterrec.stages.world import COLUMNS, log_files
from peterrec.task_run import TaskFacts, load_task, save_task
from peterrec.training.continuation import Continuation, settings_layer

NEW = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("days")


@pytest.fixture(scope="module")
def days(world_log):
    """The world's log before a moment, without some items, and after it, with them."""
    text = csv.ConvertOptions(column_types={"user": pa.string(), "item": pa.string()})
    log = pa.concat_tables([csv.read_csv(file, convert_options=text) for file in log_files(world_log)])
    times = np.asarray(log["timestamp"])
    names = sorted(set(log["item"].to_pylist()))
    new = pa.array(np.random.default_rng(0).choice(names, NEW, replace=False).tolist())
    late = times >= np.quantile(times, 0.5)
    known = ~np.asarray(pc.is_in(log["item"], new))
    return log.filter(pa.array(~late & known)), log.filter(pa.array(late)), set(new.to_pylist())


def prepared(log, output, **changes):
    return prepare.run(log, output=output, columns=COLUMNS, split="leave_one_out", **changes)


@pytest.fixture(scope="module")
def first(days, folder, world_log, small_settings):
    """An encoder of the first day, with a readout that has item weights."""
    prepared(days[0], folder / "day1", users=world_log / "users.csv")
    more = {"epochs": 4, "learning_rate": 5e-3}
    settings = small_settings.model_copy(update={"training": small_settings.training.model_copy(update=more)})
    pretrain.run(folder / "day1", output=folder / "first", settings=settings, progress="silent")
    return folder / "first"


@pytest.fixture(scope="module")
def second_day(days, folder, first):
    prepared(days[1], folder / "day2", vocabulary_of=first)
    return folder / "day2"


@pytest.fixture(scope="module")
def moved(folder, first, second_day):
    """The encoder gone on from as a whole, with the settings of the first."""
    pretrain.run(second_day, output=folder / "moved", parent=first, progress="silent")
    return folder / "moved"


@pytest.fixture(scope="module")
def kept(folder, first, second_day):
    """The encoder with new rows alone trained."""
    told = pretrain.run(second_day, output=folder / "kept", parent=first, new_items_only=True, progress="silent")
    assert told["results"][0]["trained_parameters"] == NEW * 16
    return folder / "kept"


def test_the_new_day_has_the_old_rows_and_new_ones_behind_them(first, second_day, days):
    old, new = Vocabulary.load(first / "vocabulary.parquet"), open_prepared(second_day).vocabulary
    assert new.items.to_pylist()[: old.num_items] == old.items.to_pylist()
    assert set(new.items.to_pylist()[old.num_items :]) == days[2]
    counts = dict(zip(new.items.to_pylist(), new.counts.tolist(), strict=True))
    for item, count in zip(old.items.to_pylist(), old.counts.tolist(), strict=True):
        assert counts[item] == count + sum(row == item for row in days[1]["item"].to_pylist())
    summary = json.loads((second_day / "summary.json").read_text())
    assert summary["vocabulary"]["new_items"] == NEW
    assert summary["vocabulary"]["extends"] == old.fingerprint
    assert f"{NEW} new items" in " ".join(summary["notes"])


def test_going_on_pays_on_the_new_day(first, second_day, moved, kept):
    day, start = open_prepared(second_day), Continuation.open(first)
    figures = [
        evaluate_next_item(day, encoder=encoder, device=torch.device("cpu"), model_facts={})["results"][0]
        for encoder in (start.grown(day).eval(), *(open_encoder(folder)[0] for folder in (moved, kept)))
    ]
    before, after, new_alone = (row["metrics"]["ndcg@10"]["value"] for row in figures)
    assert after > before + 0.01
    assert new_alone > before


def test_the_files_of_both_say_where_they_come_from(first, second_day, moved, kept):
    old, _ = open_encoder(first)
    for folder, preserved in ((moved, []), (kept, [encoder_revision(first)])):
        encoder, vocabulary = open_encoder(folder)
        assert list(encoder.config.ancestors) == [encoder_revision(first)]
        assert list(encoder.config.preserved) == preserved
        assert vocabulary.fingerprint == open_prepared(second_day).vocabulary.fingerprint
        run = json.loads((folder / "run.json").read_text())
        assert (folder / run["inputs"]["from"]).resolve() == first.resolve()
        assert run["settings"]["from"]["revision"] == encoder_revision(first)
        assert run["settings"]["encoder"] == json.loads((first / "run.json").read_text())["settings"]["encoder"]
        rows = torch.randint(3, old.config.vocab_size, (5, 20), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            same = torch.equal(encoder(rows).last_hidden_state, old(rows).last_hidden_state)
        assert same == bool(preserved)
    assert encoder_revision(moved) != encoder_revision(first)
    before, after = (open_encoder(folder)[0].embed_tokens.weight[3:].detach() for folder in (first, moved))
    likeness = torch.nn.functional.normalize(before, dim=1) @ torch.nn.functional.normalize(after, dim=1).T
    others = (likeness.sum() - likeness.trace()) / (likeness.numel() - len(likeness))
    assert likeness.diagonal().mean() > others + 0.4, "old rows are those of the same items"


def trained(encoder, name, output):
    """The folder of a task as if it had been fine-tuned: every weight of its own is moved."""
    recipe = catalogue.adapter(name)
    task = catalogue.task("gender").model_copy(
        update={"readout": "attention", "item_weights": True, "train_readout": True}
    )
    facts = TaskFacts(
        task=task,
        adapter=recipe,
        classes=("f", "m"),
        prior=(0.5, 0.5),
        encoder_revision=encoder_revision(encoder),
        vocabulary_fingerprint=open_encoder(encoder)[1].fingerprint,
    )
    torch.manual_seed(0)
    model = build(open_encoder(encoder)[0], adapter=recipe, task=task, num_classes=2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    with output_folder(output, stage="finetune", overwrite=False, resume={}) as run:
        with run.files() as temporary:
            save_task(model, folder=temporary, facts=facts, base_model=str(encoder))
            nobody = pa.table({"user": ["nobody"], "part": ["test"]})
            pq.write_table(nobody, temporary / "split.parquet")
        inputs = {"encoder": encoder, "data": encoder.with_name("day1")}
        run.finish(inputs={key: relative_to_run(path, output) for key, path in inputs.items()}, model=dump(facts))
    return output


@pytest.fixture(scope="module", params=["serial", "items"])
def task(request, first, folder):
    return trained(first, request.param, folder / request.param)


def test_an_adapter_works_unchanged_where_its_encoder_stands_and_else_only_when_asked(
    task, first, kept, moved, days, tmp_path
):
    def shares(name, *, log=days[0], **options):
        output = tmp_path / f"{name}.parquet"
        predict.run(log, model=task, output=output, columns=COLUMNS, device="cpu", **options)
        table = pq.read_table(output)
        return np.array([table[c] for c in table.column_names if c.startswith("p_")])

    wanted = shares("first")
    assert np.array_equal(shares("kept", encoder=kept), wanted)
    with pytest.raises(RefusedError, match=r"weights have moved: predictions will differ.*--continued"):
        shares("refused", encoder=moved)
    found = shares("moved", encoder=moved, continued=True)
    assert found.shape == wanted.shape
    assert not np.allclose(found, wanted, atol=1e-3)
    assert not np.array_equal(shares("new", log=days[1], encoder=kept), shares("old", log=days[1])), "new items count"
    rows = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vectors = [load_adapter(task, encoder=encoder)(rows).last_hidden_state for encoder in (first, kept)]
        assert torch.equal(*vectors)
        with pytest.raises(RefusedError, match="weights have moved"):
            load_adapter(task, encoder=moved)
        assert not torch.equal(load_adapter(task, encoder=moved, continued=True)(rows).last_hidden_state, vectors[0])


def test_what_a_task_learnt_of_items_goes_on(task, kept):
    old, new = load_task(task).model.state_dict(), load_task(task, encoder=kept).model.state_dict()
    weights = next(name for name in old if name.endswith("item_weights") and not name.startswith("encoder."))
    assert torch.equal(new[weights][: len(old[weights])], old[weights])
    torch.testing.assert_close(new[weights][len(old[weights]) :], old[weights][3:].mean().expand(NEW))
    for name in (name for name in old if "lora_embedding_A" in name):
        known = old[name].shape[1]
        assert old[name].any()
        assert torch.equal(new[name][:, :known], old[name])
        assert not new[name][:, known:].any()


@pytest.fixture(scope="module")
def labelled(days, folder, moved, world_log):
    prepared(days[1], folder / "labelled", encoder=moved, users=world_log / "users.csv")
    return folder / "labelled"


def test_a_task_is_measured_on_the_new_day(task, moved, labelled, tmp_path):
    options = {"output": tmp_path / "out", "data": labelled, "encoder": moved, "device": "cpu"}
    with pytest.raises(RefusedError, match="weights have moved"):
        evaluate.run(task, **options)
    assert "pretrained further since" in evaluate.run(task, continued=True, **options)["protocol"]


def test_a_whole_fine_tuned_encoder_is_no_adapter(first, kept, tmp_path):
    with pytest.raises(RefusedError, match="encoder of its own"):
        load_task(trained(first, "full", tmp_path / "task"), encoder=kept)


def test_it_goes_on_where_it_was_stopped_and_not_from_another(
    first, kept, second_day, moved, small_settings, tmp_path, monkeypatch
):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    output = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(pretrain, "evaluate_next_item", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(second_day, output=output, parent=first, progress="silent")
    with pytest.raises(SettingsError, match=r"from\.revision"):
        pretrain.run(second_day, output=output, parent=kept, progress="silent")
    with pytest.raises(SettingsError, match=r"from\.new_items_only"):
        pretrain.run(second_day, output=output, parent=first, new_items_only=True, progress="silent")
    pretrain.run(second_day, output=output, parent=first, progress="silent")
    assert encoder_revision(output) == encoder_revision(moved), "to the bit"


def test_a_day_without_new_items_moves_weights_and_keeps_the_vocabulary(first, days, tmp_path):
    log = days[1].filter(pa.array([item not in days[2] for item in days[1]["item"].to_pylist()]))
    told = prepared(log, tmp_path / "data", vocabulary_of=first)
    assert told["vocabulary"]["new_items"] == 0
    pretrain.run(tmp_path / "data", output=tmp_path / "run", parent=first, progress="silent")
    encoder, vocabulary = open_encoder(tmp_path / "run")
    assert vocabulary.fingerprint == open_encoder(first)[1].fingerprint
    assert list(encoder.config.ancestors) == [encoder_revision(first)]
    with pytest.raises(SettingsError, match=r"--new-items-only: .* nothing would train"):
        pretrain.run(tmp_path / "data", output=tmp_path / "r", parent=first, new_items_only=True, progress="silent")


def test_another_process_goes_on_from_the_same_encoder_or_from_none(first, kept):
    told = Continuation.open(first, new_items_only=True).job
    assert Continuation.of_job(json.loads(json.dumps(told))).new_items_only
    with pytest.raises(RefusedError, match="not the encoder that the main process goes on from"):
        Continuation.of_job({**told, "folder": str(kept)})


def test_a_log_of_another_catalogue_is_refused(first, days, folder, tmp_path):
    others = days[1].set_column(1, "item", pa.array([f"other {item}" for item in days[1]["item"].to_pylist()]))
    with pytest.raises(DataError, match="knows no item of the events to learn from"):
        prepared(others, tmp_path / "data", vocabulary_of=first)
    assert not (tmp_path / "data").exists()
    prepared(days[1], tmp_path / "own")
    with pytest.raises(RefusedError, match="--vocabulary-of"):
        pretrain.run(tmp_path / "own", output=tmp_path / "run", parent=first, progress="silent")


def test_options_that_do_not_go_together_are_refused(first, second_day, small_settings, days, tmp_path):
    changed = load_settings(
        pretrain.PretrainSettings, layers=[settings_layer(first)], overrides=["encoder.hidden_size=32"]
    )
    with pytest.raises(SettingsError, match=r"encoder\.hidden_size = 32, but it has 16"):
        pretrain.run(second_day, output=tmp_path / "run", parent=first, settings=changed, progress="silent")
    sharded = load_settings(
        pretrain.PretrainSettings, layers=[settings_layer(first)], overrides=["training.shard_tables=true"]
    )
    options = {"parent": first, "new_items_only": True, "settings": sharded}
    with pytest.raises(SettingsError, match=r"training\.shard_tables"):
        pretrain.run(second_day, output=tmp_path / "run", progress="silent", **options)
    with pytest.raises(SettingsError, match="name it with --from"):
        pretrain.run(second_day, output=tmp_path / "run", new_items_only=True, progress="silent")
    with pytest.raises(SettingsError, match="choose another folder"):
        pretrain.run(second_day, output=first, parent=first, overwrite=True, progress="silent")
    assert (first / "run.json").is_file()
    with pytest.raises(SettingsError, match="give one of the two options"):
        prepared(days[1], tmp_path / "data", vocabulary_of=first, encoder=first)


def test_the_commands(first, second_day, days, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    csv.write_csv(days[1], tmp_path / "day.csv")
    runner = CliRunner()
    columns = ["--user", "user", "--item", "item", "--time", "timestamp"]
    told = runner.invoke(app, ["prepare", "day.csv", *columns, "-o", "data", "--vocabulary-of", str(first)])
    assert told.exit_code == 0, told.output
    assert f"Next: peterrec pretrain data --from {first}" in told.output
    few = ["--set", "training.epochs=1", "--quiet"]
    told = runner.invoke(app, ["pretrain", str(second_day), "--from", str(first), "-o", "run", *few])
    assert told.exit_code == 0, told.output
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["encoder"]["hidden_size"] == 16, "that of RUN and not the default"
    assert settings["training"]["learning_rate"] == 5e-3
    assert settings["training"]["epochs"] == 1
    told = runner.invoke(app, ["pretrain", "--from", str(first)])
    assert isinstance(told.exception, SettingsError)
    wrong = ["--set", "encoder.hidden_size=8", "-o", "r"]
    told = runner.invoke(app, ["pretrain", str(second_day), "--from", str(first), *wrong])
    assert isinstance(told.exception, SettingsError)
    assert "encoder.hidden_size = 8" in str(told.exception)
