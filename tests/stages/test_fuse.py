"""`fuse` on tables and on runs: what is written, in which order, and by which rows."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from impression_files import QUICK, prepare, raw_rows

from peterrec.errors import RefusedError, SettingsError
from peterrec.fusion.formula import read_weights
from peterrec.stages import finetune, fuse


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Clicks follow a, conversions b; the rows come in no order."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.05, 1, (2, 1500))
    columns = {
        "row": rng.permutation(1500),
        "user": [f"u{n}" for n in rng.integers(0, 60, 1500)],
        "click": (rng.random(1500) < a).astype(float),
        "conversion": (rng.random(1500) < b).astype(float),
        "p_a": a,
        "p_b": b,
    }
    found = tmp_path_factory.mktemp("fused") / "predictions.parquet"
    pq.write_table(pa.table(columns), found)
    return found


@pytest.fixture(scope="module")
def trained(world_log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fusing")
    data = prepare(world_log, folder / "data", rows=raw_rows(world_log))
    words = {"encoder": None, "data": data, "seeds": [0], "progress": "silent"}
    finetune.run("esmm", output=folder / "esmm", overrides=[*QUICK, "epochs=1"], **words)
    return folder / "esmm"


def test_a_table_is_tuned_on_some_users_and_measured_on_the_others(path, tmp_path):
    metrics = fuse.run(path, output=tmp_path / "f", metrics=["click/gauc", "conversion/gauc=3"], trials=15)
    table, before = pq.read_table(tmp_path / "f" / "fused.parquet"), pq.read_table(path)
    assert table.select(before.column_names).equals(before)
    part, user = np.array(table["part"]), np.array(table["user"])
    assert not set(user[part == "test"]) & set(user[part == "validation"])
    weights = read_weights(tmp_path / "f").weights
    assert weights == metrics["fusion"]["weights"] == metrics["fusion"]["chosen"]["weights"]
    wanted = weights["a"] * np.log(np.array(before["p_a"])) + weights["b"] * np.log(np.array(before["p_b"]))
    assert np.array(table["score"]) == pytest.approx(wanted)
    results = {result["name"]: result for result in metrics["results"]}
    assert list(results) == ["fused", "a", "b", "equal_weights"]
    assert f"{(part == 'test').sum():,} test rows" in metrics["protocol"]
    gains = {(gain["metric"], gain["over"]): gain for gain in metrics["gains"] if gain["of"] == "fused"}
    assert gains["weighted_mean", "b"]["low"] > 0
    assert gains["weighted_mean", "a"]["low"] > 0
    told = results["fused"]["metrics"]
    mean = (told["click/gauc"]["value"] + 3 * told["conversion/gauc"]["value"]) / 4
    assert told["weighted_mean"]["value"] == pytest.approx(mean)
    page = (tmp_path / "f" / "report.html").read_text()
    assert "Conversion GAUC against Click GAUC" in page
    assert sorted(p.name for p in (tmp_path / "f").iterdir() if not p.name.startswith(".")) == sorted(
        ["README.md", "fused.parquet", "metrics.json", "report.html", "run.json", "weights.json"]
    )


def test_the_same_seed_gives_the_same_files(path, tmp_path):
    for name in "ab":
        fuse.run(path, output=tmp_path / name, trials=8, seed=5)
    for file in ("weights.json", "fused.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_weights_by_hand_and_weights_of_a_file_tune_nothing(path, tmp_path):
    metrics = fuse.run(path, output=tmp_path / "hand", weights="a=1,b=0.5", form="sum", metrics=["click/auc"])
    table = pq.read_table(tmp_path / "hand" / "fused.parquet")
    assert set(table["part"].to_pylist()) == {"test"}
    assert np.array(table["score"]) == pytest.approx(np.array(table["p_a"]) + 0.5 * np.array(table["p_b"]))
    assert "front" not in metrics["fusion"]
    unlabelled = pq.read_table(path).drop_columns(["click", "conversion"])
    pq.write_table(unlabelled, tmp_path / "new.parquet")
    again = fuse.run(tmp_path / "new.parquet", output=tmp_path / "new", weights=str(tmp_path / "hand"))
    assert again == {}
    assert np.array(pq.read_table(tmp_path / "new" / "fused.parquet")["score"]) == pytest.approx(
        np.array(table["score"])
    )
    assert fuse.run(path, output=tmp_path / "c", weights=str(tmp_path / "hand"))["metric"] == "click/auc"


def test_a_run_is_tuned_on_its_validation_rows_and_measured_on_its_test_rows(trained, tmp_path):
    metrics = fuse.run(trained, output=tmp_path / "f", trials=6, device="cpu")
    assert list(metrics["fusion"]["weights"]) == ["ctr", "cvr"]  # heads, without what is derived of them
    assert "ctcvr" in [result["name"] for result in metrics["results"]]
    table = pq.read_table(tmp_path / "f" / "fused.parquet").to_pandas()
    parts = pq.read_table(trained / "split.parquet").to_pandas().set_index("row")["part"]
    assert (parts[table["row"]].to_numpy() == table["part"]).all()
    assert set(table["part"]) == {"validation", "test"}
    run = pq.read_table(trained / "predictions.parquet").to_pandas().set_index("row")
    tested = table[table["part"] == "test"].set_index("row")
    assert len(tested) == len(run)
    assert tested["p_ctcvr"].to_numpy() == pytest.approx(run.loc[tested.index, "p_ctcvr"].to_numpy(), rel=1e-4)
    own = json.loads((trained / "metrics.json").read_text())["results"][0]["metrics"]
    ctcvr = next(result for result in metrics["results"] if result["name"] == "ctcvr")["metrics"]
    assert ctcvr["conversion/auc"]["value"] == pytest.approx(own["ctcvr/auc"]["value"], abs=1e-4)
    assert ctcvr["conversion/gauc"]["value"] == pytest.approx(own["ctcvr/gauc"]["value"], abs=1e-4)


def test_lists_of_a_run_are_rows_of_one_time(trained, tmp_path):
    metrics = fuse.run(trained, output=tmp_path / "f", weights="ctr=1", within="time", metrics=["click/ndcg@3"])
    assert "click/ndcg@3" in metrics["results"][0]["metrics"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"weights": "a=1", "scores": ["a"]}, "leave --scores out"),
        ({"weights": "d=1"}, "--weights: .* has no prediction 'd'"),
        ({"scores": ["a", "d"]}, "--scores: .* has no prediction 'd'"),
        ({"scores": ["a", "a"]}, "stands there twice"),
        ({"scores": ["a"]}, "one prediction to fuse"),
        ({"tune_share": 1.0}, "between 0 and 1"),
        ({"metrics": ["like/auc"]}, "has no label 'like'"),
        ({"encoder": "e"}, "--encoder is about a run"),
    ],
)
def test_options_that_do_not_fit_are_told_and_leave_nothing(path, tmp_path, words, told):
    with pytest.raises(SettingsError, match=told):
        fuse.run(path, output=tmp_path / "f", **words)
    assert not (tmp_path / "f").exists()


def test_runs_that_cannot_be_fused_are_told(trained, task_folder, tmp_path):
    with pytest.raises(SettingsError, match="another kind of task"):
        fuse.run(task_folder, output=tmp_path / "f")
    with pytest.raises(SettingsError, match="--user is about a table"):
        fuse.run(trained, output=tmp_path / "f", user="u")
    with pytest.raises(SettingsError, match="--list request"):
        fuse.run(trained, output=tmp_path / "f", within="request")
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in trained.iterdir():
        if file.is_file():
            (moved / file.name).write_bytes(file.read_bytes())
    run = json.loads((moved / "run.json").read_text())
    run["inputs"] |= {"data": str(trained.parent / "data"), "data_fingerprint": "other"}
    (moved / "run.json").write_text(json.dumps(run))
    with pytest.raises(RefusedError, match="not hold the impressions"):
        fuse.run(moved, output=tmp_path / "f", device="cpu")
