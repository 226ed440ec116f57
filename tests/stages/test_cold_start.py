"""A cold start as a whole: the run's folder, its evaluation, what is refused, and the source part of one log."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.cross_domain import OneLog
from peterrec.data.item_rule import ItemRule
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.prepared import open_prepared
from peterrec.data.source_part import WithoutItems
from peterrec.errors import RefusedError, SettingsError
from peterrec.ranking_run import load_ranking
from peterrec.stages import compare, evaluate, finetune, predict, prepare, pretrain, world


@pytest.fixture(scope="module")
def cold(encoder_folder, world_log):
    output = encoder_folder.with_name("cold")
    logs = world.TwoLogs(world.log_files(world_log), world_log / "target.csv", world.COLUMNS, world.COLUMNS)
    finetune.run(
        "cold_start",
        encoder=encoder_folder,
        output=output,
        logs=logs,
        seeds=[0, 1],
        overrides=["epochs=2", "device=cpu"],
        progress="silent",
    )
    return output


def test_the_stored_model_is_that_of_the_first_seed(cold, tmp_path):
    metrics = json.loads((cold / "metrics.json").read_text())
    again = evaluate.run(cold, output=tmp_path / "again", device="cpu")
    for name in ("ndcg@10", "hr@10", "mrr", "coverage@10"):
        assert again["results"][0]["metrics"][name]["value"] == pytest.approx(
            metrics["results"][0]["metrics"][name]["per_seed"][0]
        )
    assert [one["role"] for one in metrics["results"]] == ["model"] + ["baseline"] * 6


def test_the_counts_of_the_model_are_those_of_its_training_users(cold, world_log):
    parts = {row["user"]: row["part"] for row in pq.read_table(cold / "split.parquet").to_pylist()}
    counts: dict[str, int] = {}
    for line in (world_log / "target.csv").read_text().splitlines()[1:]:
        user, item, _ = line.split(",")
        if parts.get(user) == "train":
            counts[item] = counts.get(item, 0) + 1
    catalogue = load_ranking(cold).target_vocabulary
    found = dict(zip(catalogue.items.to_pylist(), catalogue.counts.tolist(), strict=True))
    assert {item: count for item, count in found.items() if count} == counts


def test_it_has_no_classes_to_predict(cold, world_log, tmp_path):
    with pytest.raises(SettingsError, match="peterrec recommend"):
        predict.run(world.log_files(world_log), model=cold, output=tmp_path / "p.parquet")


@pytest.mark.parametrize("before", [False, True])
def test_the_source_part_of_a_log_holds_nothing_of_the_target(tmp_path, before):
    rows = [("u", "a", 1), ("u", "c", 2), ("u", "b", 3), ("v", "a", 1), ("v", "b", 2), ("v", "a", 3), ("w", "c", 5)]
    log = pa.table({name: [row[n] for row in rows] for n, name in enumerate(("user", "item", "at"))})
    items = pa.table({"item": ["a", "b", "c"], "genres": ["Drama", "Drama", "Action|Comedy"]})
    prepare.run(
        log,
        output=tmp_path / "source",
        columns=LogColumns(time="at"),
        items=items,
        without=WithoutItems(ItemRule("genres", "Comedy"), before_target=before),
        split="leave_one_out",
    )
    prepared = open_prepared(tmp_path / "source")
    histories = prepared.sequences("histories")
    found = {
        user: prepared.vocabulary.ids(histories.items_of(row))
        for row, user in enumerate(histories.users.array.to_pylist())
    }
    assert found == {"u": ["a"] if before else ["a", "b"], "v": ["a", "b", "a"]}


def test_a_comparison_has_every_contestant_and_baseline_on_the_same_users(encoder_folder, world_log, tmp_path):
    logs = world.TwoLogs(world.log_files(world_log), world_log / "target.csv", world.COLUMNS, world.COLUMNS)
    found = compare.run(
        "cold_start",
        encoder=encoder_folder,
        output=tmp_path / "compare",
        logs=logs,
        adapters=["serial", "none"],
        controls=["random"],
        learning_rates=None,
        seeds=[0],
        overrides=["epochs=1", "device=cpu"],
        progress="silent",
    )
    names = [result["name"] for result in found["results"]]
    assert names[:3] == ["serial", "none", "random+serial"]
    assert {"popularity", "item_knn", "user_knn", "ridge", "item_knn_recent", "ridge_recent"} <= set(names)
    assert {gain["over"] for gain in found["gains"] if gain["of"] == "serial"} == set(names) - {"serial"}
    assert (tmp_path / "compare" / "report.html").is_file()


@pytest.fixture(scope="module")
def one_log(world_log, small_settings, tmp_path_factory):
    """The world's two logs as one, a table that says which items are the target's, encoders of the part and of all."""
    folder = tmp_path_factory.mktemp("one")
    rows = []
    for file in (world_log / "log-0.csv", world_log / "log-1.csv.gz", world_log / "target.csv"):
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt") as lines:
            rows += [line for number, line in enumerate(lines) if number]
    (folder / "log.csv").write_text("user,item,time\n" + "".join(rows))
    ids = sorted({row.split(",")[1] for row in rows})
    kinds = ["shop|sale" if item.startswith("t") else "film" for item in ids]
    pq.write_table(pa.table({"item": ids, "kind": kinds}), folder / "items.parquet")
    rule = ItemRule("kind", "shop")
    for name, without in (("source", WithoutItems(rule, before_target=True)), ("all", None)):
        prepare.run(
            folder / "log.csv",
            output=folder / name,
            columns=LogColumns(time="time"),
            items=folder / "items.parquet",
            without=without,
            split="leave_one_out",
        )
        pretrain.run(folder / name, output=folder / f"{name}-encoder", settings=small_settings, progress="silent")
    return folder, OneLog(folder / "log.csv", LogColumns(time="time"), pq.read_table(folder / "items.parquet"), rule)


def test_one_log_is_divided_by_its_items(one_log, tmp_path):
    folder, logs = one_log
    found = finetune.run(
        "cold_start",
        encoder=folder / "source-encoder",
        output=tmp_path / "cold",
        logs=logs,
        seeds=[0],
        overrides=["epochs=1", "device=cpu"],
        progress="silent",
    )
    assert found["results"][0]["metrics"]["ndcg@10"]["value"] > 0
    assert all(item.startswith("t") for item in load_ranking(tmp_path / "cold").target_vocabulary.items.to_pylist())


def test_an_encoder_that_has_seen_the_target_events_is_refused(one_log, tmp_path):
    folder, logs = one_log
    with pytest.raises(RefusedError, match="without-items"):
        finetune.run(
            "cold_start",
            encoder=folder / "all-encoder",
            output=tmp_path / "cold",
            logs=logs,
            seeds=[0],
            overrides=["epochs=1", "device=cpu"],
            progress="silent",
        )
    assert not (tmp_path / "cold" / "run.json").exists()
