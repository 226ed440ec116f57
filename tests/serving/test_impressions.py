"""Impressions over a server, against what `peterrec predict` says of the same rows in a file."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from impression_files import QUICK, prepare, raw_rows, table_of

from peterrec.data.impressions.side_table import side_tables
from peterrec.encoders.loading import open_encoder
from peterrec.errors import DataError
from peterrec.serving.requests import Impression, Predict, PredictImpressions
from peterrec.serving.server import Server
from peterrec.stages import finetune, predict_impressions

MODELS = {"fields": ("shared_bottom", None), "frozen": ("mmoe_esmm", "none"), "inside": ("mmoe_esmm", "serial")}


@pytest.fixture(scope="module")
def rows(world_log):
    return raw_rows(world_log)


@pytest.fixture(scope="module")
def models(rows, world_log, encoder_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("impressions")
    data = prepare(world_log, folder / "data", rows=rows, encoder=encoder_folder)
    for name, (task, adapter) in MODELS.items():
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


@pytest.fixture(scope="module")
def server(encoder_folder, models):
    made = Server(encoder_folder, device="cpu")
    for name in MODELS:
        made.add(name, models / name)
    return made


def requested(rows, schema, world_log, histories):
    """The rows as a client would send them: fields of the users' table among the others."""
    lines = [line.split(",") for line in (world_log / "users.csv").read_text().splitlines()]
    people = {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}
    kinds = {field.name: field.kind for field in schema.fields}
    found = []
    for row in rows:
        whole = {**people.get(row["user"], {}), **row}
        fields = {name: whole.get(name) for name in kinds}
        for name, kind in kinds.items():
            if kind == "numeric":
                fields[name] = None if fields[name] in (None, "") else float(fields[name])
            elif kind == "multi":
                fields[name] = [] if not fields[name] else str(fields[name]).split("|")
        history = None if histories is None else histories.index(row["user"])
        found.append(Impression(fields=fields, item=row["item"], domain=row["domain"], history=history))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_it_says_what_predict_says(name, server, models, rows, world_log, encoder_folder, tmp_path):
    some = rows[:40]
    _, vocabulary = open_encoder(encoder_folder)
    random = np.random.default_rng(0)
    users = sorted({row["user"] for row in some})
    lists = [vocabulary.ids(random.integers(3, len(vocabulary), n % 60)) for n in range(len(users))]
    log = tmp_path / "log.csv"
    lines = [f"{user},{item},{at}" for user, items in zip(users, lists, strict=True) for at, item in enumerate(items)]
    log.write_text("\n".join(["user,item,timestamp", *lines]) + "\n")
    timeless = [{key: value for key, value in row.items() if key != "timestamp"} for row in some]
    with_encoder = MODELS[name][1] is not None
    predict_impressions.run(
        table_of(timeless),
        model=models / name,
        output=tmp_path / "out.parquet",
        history=[str(log)] if with_encoder else None,
        side=side_tables(users=world_log / "users.csv"),
        device="cpu",
    )
    table = pq.read_table(tmp_path / "out.parquet")
    schema = server._placement.tasks[name].loaded.schema
    asked = requested(timeless, schema, world_log, users if with_encoder else None)
    found = server.predict_impressions(asked, task=name, histories=lists if with_encoder else ())
    assert set(found.outputs) == {column[2:] for column in table.column_names if column.startswith("p_")}
    for output, values in found.outputs.items():
        np.testing.assert_allclose(values, table[f"p_{output}"].to_numpy(), rtol=1e-5, atol=1e-7)
    both = server.run(
        [server.job(PredictImpressions(name, asked[:3], lists if with_encoder else ())) for _ in range(2)]
    )
    np.testing.assert_allclose(both.answers[1].outputs["ctr"], found.outputs["ctr"][:3], rtol=1e-5)


def test_what_is_shared(server):
    assert {note.name: note.shares for note in server.tasks} == {
        "fields": "nothing",
        "frozen": "weights",
        "inside": "weights",
    }
    assert {"ctr", "cvr", "ctcvr"} <= set(server.tasks[0].outputs)


def test_rows_that_cannot_be_read(server, rows, world_log):
    schema = server._placement.tasks["frozen"].loaded.schema
    (good,) = requested(rows[:1], schema, world_log, None)
    name = schema.of_kind("categorical")[0]
    bad = {key: value for key, value in good.fields.items() if key != name}
    for row, histories, text in [
        (Impression(fields=bad), (), f"lacks the field '{name}'"),
        (Impression(fields={**good.fields, "devicee": "x"}), (), "no field 'devicee'"),
        (Impression(fields={**good.fields, name: ["a"]}), (), "one value, not a list"),
        (Impression(fields=good.fields, history=1), [["a"]], "history 1 is not there"),
        (Impression(fields=good.fields, history=0), (), "history 0 is not there"),
    ]:
        with pytest.raises(DataError, match=text):
            server.predict_impressions([row], task="frozen", histories=histories)
    with pytest.raises(DataError, match="trained without an encoder"):
        server.predict_impressions([good], task="fields", histories=[["a"]])
    with pytest.raises(Exception, match="ask for impressions"):
        server.job(Predict([["a"]], ["frozen"]))
