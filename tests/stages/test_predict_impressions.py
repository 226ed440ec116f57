"""`predict` for impressions: rows in their own order, each by itself, with what is not known left out."""

import gzip

import numpy as np
import pyarrow.parquet as pq
import pytest
from impression_files import FIELDS, QUICK, prepare, raw_rows, table_of

from peterrec.data.impressions.side_table import side_tables
from peterrec.errors import DataError, SettingsError
from peterrec.stages import finetune, predict_impressions
from peterrec.stages.world import log_files

MODELS = {"fields alone": ("shared_bottom", None), "frozen": ("mmoe_esmm", "none"), "serial": ("mmoe_esmm", "serial")}


@pytest.fixture(scope="module")
def rows(world_log):
    return raw_rows(world_log)


@pytest.fixture(scope="module")
def models(rows, world_log, encoder_folder, tmp_path_factory):
    """A run of each kind, and the one of position_bias, on the same impressions."""
    folder = tmp_path_factory.mktemp("predicting")
    data = prepare(world_log, folder / "data", rows=rows, encoder=encoder_folder)
    for name, (task, adapter) in {**MODELS, "position": ("position_bias", None)}.items():
        finetune.run(
            task,
            encoder=None if adapter is None else encoder_folder,
            data=data,
            output=folder / name,
            adapter_name=adapter,
            seeds=[0],
            overrides=[*QUICK, "epochs=1"],
            progress="silent",
        )
    return folder


@pytest.fixture
def predict(models, world_log, tmp_path):
    """What a model predicts for a table, or files, of impressions: the rows of its output, and the counts."""

    def call(name, source, *, history=None, **more):
        log = None
        if name in MODELS and MODELS[name][1] is not None:
            log = [str(path) for path in log_files(world_log)] if history is None else history
        counts = predict_impressions.run(
            source,
            model=models / name,
            output=tmp_path / "out.parquet",
            history=log,
            side=side_tables(users=world_log / "users.csv"),
            device="cpu",
            overwrite=True,
            **more,
        )
        return pq.read_table(tmp_path / "out.parquet").to_pandas(), counts

    return call


def outputs(table):
    return table[["p_ctr", "p_cvr", "p_ctcvr"]].to_numpy()


def assert_alike(found, wanted):
    np.testing.assert_allclose(outputs(found), outputs(wanted), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_rows_come_in_their_order_as_the_run_predicted_them(name, models, rows, predict):
    found, counts = predict(name, table_of(rows))
    assert found["row"].tolist() == list(range(len(rows)))
    for column in ("user", "item", "domain"):
        assert found[column].tolist() == [row[column] for row in rows]
    tested = pq.read_table(models / name / "predictions.parquet").to_pandas()
    assert 50 < len(tested) < len(rows)
    assert_alike(found.iloc[tested["row"]], tested)
    np.testing.assert_allclose(found["p_ctcvr"], found["p_ctr"] * found["p_cvr"], rtol=1e-6)
    assert counts["rows"] == len(rows)
    assert counts["rows_of_unknown_domains"] == 0
    assert ("rows_without_known_history" in counts) == (name != "fields alone")


@pytest.mark.parametrize("name", ["fields alone", "serial"])
def test_a_row_is_predicted_by_itself(name, rows, predict):
    found, _ = predict(name, table_of(rows))
    order = np.random.default_rng(0).permutation(len(rows))[:200]
    some, _ = predict(name, table_of([rows[n] for n in order]))
    assert_alike(some, found.iloc[order])
    one, _ = predict(name, table_of([rows[137]]))
    assert len(one) == 1
    assert_alike(one, found.iloc[[137]])


def test_labels_are_not_needed(rows, predict):
    wanted, _ = predict("fields alone", table_of(rows))
    labels = ("click", "cart", "conversion", "like", "dwell", "completion")
    found, _ = predict("fields alone", table_of(rows, without=labels))
    assert_alike(found, wanted)


def test_files_of_other_formats_say_the_same(rows, predict, tmp_path):
    table = table_of(rows[:150])
    wanted, _ = predict("fields alone", table)
    pq.write_table(table, tmp_path / "rows.parquet")
    lines = [",".join(table.column_names), *(",".join(row[name] for name in table.column_names) for row in rows[:150])]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    with gzip.open(tmp_path / "more.csv.gz", "wt") as file:
        file.write("\n".join([lines[0], *lines[1:20]]) + "\n")
    for name in ("rows.parquet", "rows.csv"):
        found, _ = predict("fields alone", [str(tmp_path / name)])
        assert_alike(found, wanted)
    both, _ = predict("fields alone", [str(tmp_path / "rows.csv"), str(tmp_path / "more.csv.gz")])
    assert both["row"].tolist() == list(range(169))
    assert_alike(both.iloc[150:], wanted.iloc[:19])


@pytest.mark.parametrize("name", ["frozen", "serial"])
def test_what_happens_later_changes_nothing(name, rows, predict, world_log, tmp_path):
    log = [str(path) for path in log_files(world_log)]
    wanted, _ = predict(name, table_of(rows))
    last = {row["user"]: int(row["timestamp"]) for row in rows}  # each user's rows stand in order of time
    for after, same in ((0, True), (5, True), (-1, False)):
        events = [f"{user},i{n:04d},{at + after}" for user, at in last.items() for n in range(10)]
        (tmp_path / "more.csv").write_text("\n".join(["user,item,timestamp", *events]) + "\n")
        found, _ = predict(name, table_of(rows), history=[*log, str(tmp_path / "more.csv")])
        if same:
            assert_alike(found, wanted)
        else:
            moved = np.abs(outputs(found) / outputs(wanted) - 1).max(axis=1) > 1e-4
            latest = np.array([int(row["timestamp"]) == last[row["user"]] for row in rows])
            assert moved[latest].mean() > 0.9
            assert not moved[~latest].any()


def test_what_was_never_seen_is_predicted_too(rows, predict):
    strange = [{**row} for row in rows[:6]]
    strange[0]["user"] = "nobody"
    strange[1]["item"] = "nothing"
    strange[2]["domain"] = "elsewhere"
    strange[3]["domain"] = ""
    strange[4]["device"] = "fridge"
    strange[5]["tags"] = "t9|t8"
    found, counts = predict("serial", table_of(strange))
    assert np.isfinite(outputs(found)).all()
    assert ((outputs(found) > 0) & (outputs(found) < 1)).all()
    assert counts["rows_of_unknown_domains"] == 2
    assert counts["rows_without_known_history"] >= 1
    assert found["domain"].isna().tolist() == [False, False, True, True, False, False]
    assert found["user"][0] == "nobody"
    plain, _ = predict("serial", table_of(rows[:6]))
    assert not np.allclose(outputs(found)[:5], outputs(plain)[:5], rtol=1e-4)
    both = [{**rows[0], "device": "fridge"}, {**rows[0], "device": "toaster"}, {**rows[0], "item": "x"}]
    found, _ = predict("fields alone", table_of([*both, {**rows[0], "item": "y"}]))
    np.testing.assert_array_equal(outputs(found)[[0, 2]], outputs(found)[[1, 3]])  # one unseen value is as another


def test_no_item_need_be_known(rows, predict):
    unknown = [{**row, "item": f"new{n}"} for n, row in enumerate(rows[:40])]
    found, _ = predict("frozen", table_of(unknown))
    assert np.isfinite(outputs(found)).all()
    with pytest.raises(DataError, match="item"):
        predict("frozen", table_of(unknown, without=("item",)))


def test_a_position_is_not_needed_and_changes_nothing(rows, predict):
    found, _ = predict("position", table_of(rows, without=("position", "device")))
    wanted, _ = predict("position", table_of(rows))
    assert_alike(found, wanted)
    first, _ = predict("position", table_of([{**row, "position": "1"} for row in rows]))
    assert_alike(first, wanted)
    with pytest.raises(DataError, match="dice"):
        predict("position", table_of(rows, without=("dice",)))


def test_a_field_that_the_model_reads_is_needed(rows, predict):
    for name in ("position", "tags"):
        assert any(field.startswith(name) for field in FIELDS)
        with pytest.raises(DataError, match=name):
            predict("fields alone", table_of(rows[:50], without=(name,)))


def test_a_history_is_for_models_that_read_one(rows, models, world_log, tmp_path):
    given = {"output": tmp_path / "out.parquet", "side": side_tables(users=world_log / "users.csv")}
    with pytest.raises(SettingsError, match="name the log of their events with --history"):
        predict_impressions.run(table_of(rows[:9]), model=models / "serial", **given)
    with pytest.raises(SettingsError, match="trained without an encoder"):
        predict_impressions.run(
            table_of(rows[:9]),
            model=models / "fields alone",
            history=[str(path) for path in log_files(world_log)],
            **given,
        )
    assert not (tmp_path / "out.parquet").exists()


def test_blocks_of_any_size_say_the_same(rows, predict, monkeypatch):
    wanted, _ = predict("serial", table_of(rows))
    monkeypatch.setattr(predict_impressions, "BLOCK_ROWS", 64)
    found, _ = predict("serial", table_of(rows))
    assert found["row"].tolist() == wanted["row"].tolist()
    assert_alike(found, wanted)


def test_bad_rows_are_left_out_where_asked_for(rows, predict):
    bad = [{**row} for row in rows[:30]]
    bad[7]["dice"] = "dear"
    with pytest.raises(DataError, match="dear"):
        predict("fields alone", table_of(bad))
    found, counts = predict("fields alone", table_of(bad), bad_rows="drop")
    assert found["row"].tolist() == [n for n in range(30) if n != 7]
    assert counts["rows"] == 29
