"""A cold start as a whole: the run's folder, its evaluation, what is refused, and the source part of one log."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.item_rule import ItemRule
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.prepared import open_prepared
from peterrec.data.source_part import WithoutItems
from peterrec.errors import SettingsError
from peterrec.ranking_run import load_ranking
from peterrec.stages import evaluate, finetune_ranking, predict, prepare, world


@pytest.fixture(scope="module")
def cold(encoder_folder, world_log):
    output = encoder_folder.with_name("cold")
    logs = world.TwoLogs(world.log_files(world_log), world_log / "target.csv", world.COLUMNS, world.COLUMNS)
    finetune_ranking.run(
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
