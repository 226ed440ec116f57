"""The whole road on a small world: every stage reads what the one before it wrote."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel

from peterrec.data.prepared import open_prepared
from peterrec.encoders.loading import load_encoder
from peterrec.errors import RefusedError, SettingsError
from peterrec.run_record import read_run
from peterrec.stages import compare, encode, evaluate, finetune, predict, pretrain
from peterrec.stages.world import COLUMNS, log_files
from peterrec.task_run import load_task

ROOT = Path(__file__).parents[2]


def read(folder, name="metrics.json"):
    return json.loads((folder / name).read_text())


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pretraining_writes_an_encoder_with_its_figures(encoder_folder, prepared_folder):
    assert {f.name for f in encoder_folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "vocabulary.parquet",
        "settings.toml",
        "metrics.json",
        "metrics.jsonl",
        "README.md",
        "report.html",
        "run.json",
    }
    metrics = read(encoder_folder)
    assert [result["name"] for result in metrics["results"]] == [
        "encoder",
        "markov",
        "item_knn",
        "popularity",
        "oracle",
    ]
    for result in metrics["results"]:
        figure = result["metrics"]["ndcg@10"]
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert "hr@10 (history kept)" in result["metrics"]
    assert len(metrics["curves"]) == 2
    auto = AutoModel.from_pretrained(encoder_folder).eval()
    ids = torch.tensor([[5, 6, 7]])
    own = load_encoder(encoder_folder)
    for name, weight in auto.state_dict().items():
        assert torch.equal(weight, own.state_dict()[name]), name
    # mapped weights may begin at other addresses, and matrix products round by those
    torch.testing.assert_close(auto(ids).user_vector, own(ids).user_vector, rtol=1e-5, atol=1e-6)
    assert auto.config.vocabulary_fingerprint == open_prepared(prepared_folder).vocabulary.fingerprint


def test_pretraining_twice_gives_the_same_bytes(prepared_folder, small_settings, encoder_folder, tmp_path):
    pretrain.run(prepared_folder, output=tmp_path / "again", settings=small_settings, progress="silent")
    assert sha(tmp_path / "again" / "model.safetensors") == sha(encoder_folder / "model.safetensors")


def test_finetuning_writes_an_adapter_with_its_figures(task_folder, encoder_folder):
    assert {f.name for f in task_folder.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "task.toml",
        "adapter.toml",
        "metrics.json",
        "predictions.parquet",
        "README.md",
        "report.html",
        "run.json",
    }
    assert not (task_folder / "model.safetensors").exists()
    metrics = read(task_folder)
    assert [result["name"] for result in metrics["results"]] == ["serial", "bag_of_items", "lsa", "majority"]
    serial = metrics["results"][0]
    assert len(serial["metrics"]["accuracy"]["per_seed"]) == 2
    assert 0 < serial["trained_share"] < 0.5
    matrix = np.array(metrics["confusion"]["matrix"])
    assert matrix.sum() == pq.read_metadata(task_folder / "predictions.parquet").num_rows


def test_accuracy_is_that_of_the_predictions_file(task_folder):
    table = pq.read_table(task_folder / "predictions.parquet").to_pydict()
    for seed, wanted in enumerate(read(task_folder)["results"][0]["metrics"]["accuracy"]["per_seed"]):
        rows = [i for i, s in enumerate(table["seed"]) if s == seed]
        right = np.mean([table["label"][i] == table["predicted"][i] for i in rows])
        assert right == pytest.approx(wanted)


@pytest.mark.parametrize("adapter", ["none", "serial", "full"])
@pytest.mark.parametrize("readout", ["mean", "tcl"])
def test_a_saved_task_predicts_what_it_predicted(
    adapter, readout, encoder_folder, prepared_folder, world_log, tmp_path
):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'kind = "classification"\ncolumn = "gender"\nreadout = "{readout}"\nmetric = "roc_auc"\n')
    finetune.run(
        recipe,
        encoder=encoder_folder,
        output=tmp_path / "task",
        adapter_name=adapter,
        overrides=["epochs=2", "device=cpu"],
        progress="silent",
    )
    predict.run(
        log_files(world_log),
        model=tmp_path / "task",
        output=tmp_path / "p.parquet",
        columns=COLUMNS,
        device="cpu",
    )
    again = pq.read_table(tmp_path / "p.parquet").to_pydict()
    probability = dict(zip(again["user"], again["p_f"], strict=True))
    tested = pq.read_table(tmp_path / "task" / "predictions.parquet").to_pydict()
    assert len(tested["user"]) > 50
    for user, wanted in zip(tested["user"], tested["p_f"], strict=True):
        assert probability[user] == pytest.approx(wanted, abs=1e-5)


def test_new_users_unseen_items_and_empty_histories(task_folder, tmp_path):
    log = tmp_path / "new.csv"
    log.write_text("user,item,timestamp\nann,i0001,100\nann,never-seen,200\nann,i0002,300\nbob,never-seen,100\n")
    (tmp_path / "users.csv").write_text("user\nann\nbob\ncarl\n")
    counts = predict.run(
        [log],
        model=task_folder,
        output=tmp_path / "p.parquet",
        columns=COLUMNS,
        users=tmp_path / "users.csv",
        device="cpu",
    )
    assert counts == {
        "users": 3,
        "users_without_known_items": 2,
        "events": 4,
        "unseen_events": 2,
        "output": str(tmp_path / "p.parquet"),
    }
    table = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert table["user"] == ["ann", "bob", "carl"]
    assert table["events"] == [3, 1, 0]
    assert table["events_used"] == [2, 0, 0]
    prior = read_run(task_folder)["model"]["prior"]
    for row in (1, 2):
        assert [table["p_f"][row], table["p_m"][row]] == pytest.approx(prior)
    assert table["p_f"][0] + table["p_m"][0] == pytest.approx(1)
    # what was unseen makes no difference
    log.write_text("user,item,timestamp\nann,i0001,100\nann,i0002,300\n")
    predict.run([log], model=task_folder, output=tmp_path / "q.parquet", columns=COLUMNS, device="cpu")
    assert pq.read_table(tmp_path / "q.parquet").to_pydict()["p_f"][0] == pytest.approx(table["p_f"][0])


def test_events_used_are_those_that_the_prediction_reads(encoder_folder, world_log, tmp_path):
    recipe = (ROOT / "tasks" / "gender.toml").read_text()
    assert 'readout = "mean"' in recipe
    (tmp_path / "last.toml").write_text(recipe.replace('readout = "mean"', 'readout = "last"'))
    overrides = ["epochs=1", "device=cpu"]
    finetune.run(
        tmp_path / "last.toml",
        encoder=encoder_folder,
        output=tmp_path / "task",
        adapter_name="none",
        overrides=overrides,
        progress="silent",
    )
    output = tmp_path / "p.parquet"
    predict.run(log_files(world_log), model=tmp_path / "task", output=output, columns=COLUMNS, device="cpu")
    table = pq.read_table(output)
    reach = load_encoder(encoder_folder).reach("last")
    assert max(table["events_used"].to_pylist()) == reach < max(table["events"].to_pylist())


def test_vectors_of_a_log(encoder_folder, prepared_folder, world_log, tmp_path):
    counts = encode.run(
        log_files(world_log),
        encoder=encoder_folder,
        output=tmp_path / "v.parquet",
        columns=COLUMNS,
        device="cpu",
    )
    assert counts["users"] == 400
    table = pq.read_table(tmp_path / "v.parquet")
    histories = open_prepared(prepared_folder).sequences("histories")
    assert table["user"].to_pylist() == list(histories.users)
    encoder = load_encoder(encoder_folder)
    for row in (0, 17, 399):
        ids = torch.from_numpy(histories.items_of(row)[-50:].astype(np.int64))[None]
        wanted = encoder(ids).user_vector[0].detach().numpy()
        np.testing.assert_allclose(table["vector"][row].as_py(), wanted, atol=1e-5)
    assert table["events_used"].to_pylist() == np.minimum(histories.lengths, 50).tolist()
    for readout, used in (("last", 4), ("tcl", 3), ("first_last", 8)):  # in windows of 4 positions
        path = tmp_path / f"{readout}.parquet"
        encode.run(
            log_files(world_log),
            encoder=encoder_folder,
            output=path,
            columns=COLUMNS,
            readout=readout,
            window=4,
            device="cpu",
        )
        found = pq.read_table(path)["events_used"].to_pylist()
        assert found == np.minimum(histories.lengths, used).tolist(), readout


def test_a_comparison_has_controls_baselines_and_the_oracle(encoder_folder, tmp_path):
    metrics = compare.run(
        "gender",
        encoder=encoder_folder,
        output=tmp_path / "compare",
        learning_rates=[2e-3],
        overrides=["epochs=1", "device=cpu"],
        progress="silent",
    )
    roles = {result["name"]: result["role"] for result in metrics["results"]}
    assert roles == {
        "serial": "model",
        "none": "model",
        "full": "model",
        "scratch": "control",
        "random+serial": "control",
        "bag_of_items": "baseline",
        "lsa": "baseline",
        "majority": "baseline",
        "oracle": "ceiling",
    }
    oracle = next(r for r in metrics["results"] if r["name"] == "oracle")["metrics"]["accuracy"]["value"]
    assert oracle > max(
        r["metrics"]["accuracy"]["value"] for r in metrics["results"] if r["name"] in ("majority", "none")
    )
    over = {gain["over"] for gain in metrics["gains"] if (gain["metric"], gain["of"]) == ("accuracy", "serial")}
    assert over == set(roles) - {"serial"}
    over = {gain["over"] for gain in metrics["gains"] if (gain["metric"], gain["of"]) == ("accuracy", "full")}
    assert over == {"bag_of_items", "lsa", "majority", "oracle"}
    over = {gain["over"] for gain in metrics["gains"] if (gain["metric"], gain["of"]) == ("accuracy", "none")}
    assert over == {"full", "bag_of_items", "lsa", "majority", "oracle"}
    page = (tmp_path / "compare" / "report.html").read_text()
    for shown in ("against trained parameters", "over full", "learning rate", "peak memory", "of the search"):
        assert shown in page
    assert read(tmp_path / "compare") == json.loads(json.dumps(metrics))


def test_evaluating_again_gives_the_same_figures(encoder_folder, task_folder, tmp_path):
    found = evaluate.run(encoder_folder, output=tmp_path / "e", device="cpu")
    assert found["results"][0]["metrics"] == read(encoder_folder)["results"][0]["metrics"]
    found = evaluate.run(task_folder, output=tmp_path / "t", device="cpu")
    accuracy = found["results"][0]["metrics"]["accuracy"]["value"]
    assert accuracy == pytest.approx(read(task_folder)["results"][0]["metrics"]["accuracy"]["per_seed"][0])


def test_an_adapter_refuses_another_encoder(task_folder, prepared_folder, small_settings, tmp_path):
    other = small_settings.model_copy(update={"training": small_settings.training.model_copy(update={"seed": 1})})
    pretrain.run(prepared_folder, output=tmp_path / "other", settings=other, progress="silent")
    with pytest.raises(RefusedError, match="adapter for the encoder weights"):
        load_task(task_folder, encoder=tmp_path / "other")


def test_an_encoder_refuses_another_vocabulary(encoder_folder, tmp_path):
    from peterrec.stages import prepare

    table = pa.table({"user": ["a"] * 5 + ["b"] * 5, "item": list("xyzxy") * 2, "timestamp": list(range(10))})
    users = pa.table({"user": ["a", "b"], "gender": ["f", "m"]})
    prepare.run(table, output=tmp_path / "other", columns=COLUMNS, users=users, split="leave_one_out")
    with pytest.raises(RefusedError, match="vocabulary"):
        finetune.run(
            "gender",
            encoder=encoder_folder,
            data=tmp_path / "other",
            output=tmp_path / "t",
            progress="silent",
        )
    assert not (tmp_path / "t").exists()
    with pytest.raises(RefusedError, match="vocabulary"):
        evaluate.run(encoder_folder, data=tmp_path / "other", output=tmp_path / "e")


def test_damaged_adapters_are_refused(task_folder, tmp_path):
    import shutil

    folder = task_folder.with_name("damaged")
    shutil.copytree(task_folder, folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RefusedError, match="damaged"):
        load_task(folder)
    weights.unlink()
    with pytest.raises(RefusedError, match="cannot be read"):
        load_task(folder)


def test_a_missing_encoder_is_named(task_folder, tmp_path):
    import shutil

    shutil.copytree(task_folder, tmp_path / "moved")
    with pytest.raises(SettingsError, match="--encoder"):
        load_task(tmp_path / "moved")


def test_a_finished_output_is_not_overwritten(encoder_folder, prepared_folder, small_settings):
    before = sha(encoder_folder / "model.safetensors")
    with pytest.raises(SettingsError, match="--overwrite"):
        pretrain.run(prepared_folder, output=encoder_folder, settings=small_settings, progress="silent")
    assert sha(encoder_folder / "model.safetensors") == before
