"""`check` and `prepare` of impressions as a user types them."""

import csv
import json
import random

import pyarrow.parquet as pq
import pytest

from peterrec import cli
from peterrec.data.impressions.impressions import open_impressions
from peterrec.data.vocabulary import Vocabulary
from peterrec.stages.world import log_files

COLUMNS = ["--user", "user", "--item", "item", "--time", "timestamp"]
LABELS = ["--label", "click=rating>=3", "--label", "conversion=rating==5"]
FIELDS = ["--field", "user", "--field", "place", "--field", "price:numeric", "--field", "gender"]


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """Runs a command in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.execute([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return call


@pytest.fixture(scope="module")
def shown(world_log, tmp_path_factory):
    """The world's target log as impressions: some events of each user with a rating, a place and a price."""
    draw = random.Random(1)
    rows = list(csv.DictReader((world_log / "target.csv").read_text().splitlines()))
    path = tmp_path_factory.mktemp("shown") / "shown.csv"
    lines = [
        f"{row['user']},{row['item']},{row['timestamp']},{draw.randint(1, 5)},{draw.choice('abc')},{draw.random():.3f}"
        for row in rows
    ]
    path.write_text("user,item,timestamp,rating,place,price\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def encoder(tmp_path, world_log):
    """The folder of an encoder as far as `prepare` reads it: a finished run with a vocabulary."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    items = {row["item"] for path in log_files(world_log)[:1] for row in csv.DictReader(path.read_text().splitlines())}
    Vocabulary.build(sorted(items), counts=[1] * len(items)).save(folder / "vocabulary.parquet")
    (folder / "run.json").write_text(json.dumps({"format_version": 1, "stage": "pretrain", "inputs": {}}))
    return folder


def test_check_and_prepare(run, shown, world_log, encoder, tmp_path):
    users = ["--users", world_log / "users.csv"]
    code, out, err = run("check", shown, *COLUMNS, *LABELS, *FIELDS, *users, "--domain", "place", "--json")
    assert code == 0, err + out
    assert json.loads(out)["ok"]
    log = [word for path in log_files(world_log) for word in ("--history", path)]
    code, out, err = run(
        *("prepare", shown, *COLUMNS, *LABELS, *FIELDS, *users, "--domain", "place", "-o", "data"),
        *(*log, "--encoder", encoder),
    )
    assert code == 0, err
    assert "Next: peterrec finetune --task mmoe_esmm" in out
    found = open_impressions(tmp_path / "data")
    rows = list(csv.DictReader(shown.read_text().splitlines()))
    assert [found.schema.domains[n] for n in found.domain] == [row["place"] for row in rows]
    assert found.labels["click"].tolist() == [float(int(row["rating"]) >= 3) for row in rows]
    assert found.schema.split.name == "each_user"
    assert found.before is not None
    assert int(found.before.max()) > 0
    assert {field.name: field.table for field in found.schema.fields}["gender"] == "users"


def test_a_bad_row_ends_with_three(run, shown, tmp_path):
    text = shown.read_text().splitlines()
    (tmp_path / "bad.csv").write_text("\n".join([*text[:5], text[5].rsplit(",", 1)[0] + ",dear", *text[6:]]) + "\n")
    code, out, _ = run("check", "bad.csv", *LABELS, "--field", "price:numeric")
    assert code == 3
    assert "price:categorical" in out
    code, _, err = run("prepare", "bad.csv", *LABELS, "--field", "price:numeric", "-o", "data")
    assert (code, "row 6, column 'price', value 'dear'" in err) == (3, True)
    code, _, err = run("prepare", "bad.csv", *LABELS, "--field", "price:numeric", "-o", "data", "--bad-rows", "drop")
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--field", "price"], "--field is about impressions"),
        (["--domain", "place"], "--domain is about impressions"),
        ([*LABELS, "--field", "rating"], "--field rating: is the column of the label"),
        ([*LABELS, "--field", "price:number"], "Did you mean 'numeric'"),
        ([*LABELS, "--history", "log.csv"], "--history is read by an encoder"),
        ([*LABELS, "--history-user", "u"], "--history-user is about a log"),
        ([*LABELS, "--encoder", "e"], "--encoder reads a history"),
        ([*LABELS, "--seed", "3"], "--seed is about logs"),
        ([*LABELS, "--min-item-count", "3"], "--min-item-count is about logs"),
        ([*LABELS, "--format", "tenrec"], "--format is about logs"),
        ([*LABELS, "--split", "leave_one_out"], "impressions have no such split"),
        ([*LABELS, "--fractions", "0.8,0.9"], "three shares"),
        ([*LABELS, "--users", "u.csv"], "--users is joined by the user of a row"),
    ],
)
def test_options_that_do_not_fit(run, shown, words, told, tmp_path):
    code, _, err = run("prepare", shown, *words, "-o", "data")
    assert code == 2
    assert told in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("people", "told"),
    [
        (None, "people.csv: there is no such file"),
        ("person,gender\nu00001,F\n", "people.csv, column 'user': there is no such column"),
        ("user,gender\nnobody,F\n", "people.csv, column 'user', value 'nobody'"),
        ("user,gender\n", "people.csv: there are no rows"),
    ],
)
@pytest.mark.parametrize("command", ["check", "prepare"])
def test_a_table_that_cannot_be_joined_is_told(run, shown, tmp_path, command, people, told):
    if people is not None:
        (tmp_path / "people.csv").write_text(people)
    output = ["-o", "data"] if command == "prepare" else ["--json"]
    code, out, err = run(command, shown, *COLUMNS, *LABELS, "--field", "gender", "--users", "people.csv", *output)
    assert code == 3, err
    if command == "prepare":
        assert told in err
    else:
        assert any(f"{p['file']}" == "people.csv" and p["severity"] == "fatal" for p in json.loads(out)["problems"])
    assert not (tmp_path / "data").exists()


def test_a_table_that_nothing_comes_from_is_refused(run, shown, world_log, tmp_path):
    words = [*COLUMNS, *LABELS, "--field", "place", "--users", world_log / "users.csv"]
    code, _, err = run("prepare", shown, *words, "-o", "data")
    assert code == 2
    assert "--users: nothing that was asked for comes from this table" in err
    assert not (tmp_path / "data").exists()


def test_a_reason_is_told_where_no_time_can_be_read(run, shown):
    code, _, err = run("prepare", shown, "--time", "place", *LABELS, "--field", "price", "-o", "data")
    assert code == 3
    assert "no row can be used" in err
    assert "not a time" in err


def test_the_summary_counts_the_impressions_alone_and_names_a_task_that_fits(run, shown, world_log, tmp_path):
    users = ["--field", "gender", "--users", world_log / "users.csv"]
    code, out, err = run("prepare", shown, *COLUMNS, "--label", "good=rating>=3", *users, "-o", "data")
    assert code == 0, err
    summary = json.loads((tmp_path / "data" / "summary.json").read_text())
    rows = len(shown.read_text().splitlines()) - 1
    assert (summary["rows_read"], summary["bad_rows"], summary["rows"]) == (rows, 0, rows)
    assert "Next: peterrec finetune --task shared_bottom --data data" in out
    assert "rows of one user and time stay together" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", "esmm", "--source", "log.csv"], "task esmm reads prepared impressions; --source is for tasks"),
        (["--task", "gender,age"], "`peterrec finetune` trains one task"),
    ],
)
def test_finetune_refuses_what_is_not_its_own(run, tmp_path, words, told):
    code, _, err = run("finetune", *words)
    assert code == 2
    assert told in err
    assert not (tmp_path / "runs").exists()


def test_models_of_one_s_own_impressions(run, shown, world_log, tmp_path):
    users = ["--users", world_log / "users.csv"]
    small = ["--set", "epochs=1", "--set", "rows=512", "--set", "device=cpu", "-q"]
    like = ["--label", "like=rating==4"]
    assert run("prepare", shown, *COLUMNS, *LABELS, *like, *FIELDS, *users, "-o", "data")[0] == 0
    assert run("prepare", shown, *COLUMNS, *LABELS, *FIELDS, *users, "--split", "rows", "-o", "other")[0] == 0
    code, _, err = run("compare", "--task", "esmm,shared_bottom", "--data", "data", *small, "-o", "compared")
    assert code == 0, err
    table = pq.read_table(tmp_path / "compared" / "predictions.parquet").to_pylist()
    assert {row["model"]: row["p_like"] is not None for row in table}.items() >= {
        ("esmm", False),
        ("shared_bottom", True),
    }
    code, _, err = run("finetune", "--task", "esmm", "--data", "data", *small, "-o", "model")
    assert code == 0, err
    code, _, err = run("evaluate", "--model", "model", "--data", "other", "-o", "again")
    assert code == 0, err
    code, _, err = run("predict", "--model", "model")
    assert (code, "LOG is missing: model was trained on impressions of yours" in err) == (2, True)
    code, _, err = run("predict", shown, "--model", "model", "-o", "p.parquet")
    assert (code, "--users is missing: the model reads gender" in err) == (2, True)
    code, _, err = run("predict", shown, "--model", "model", *users, "--item", "thing")
    assert (code, "give LOG the names of those columns" in err) == (2, True)
    assert not (tmp_path / "runs").exists()
    rows = list(csv.DictReader(shown.read_text().splitlines()))[:2]
    (tmp_path / "new.csv").write_text("user,item,place,price\n" + "".join(f"n{r['user']},q,a,1\n" for r in rows))
    code, _, err = run("predict", "new.csv", "--model", "model", *users, "-o", "p.parquet")
    assert code == 0, err  # users whom the table does not know yet
    found = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert found["user"] == [f"n{row['user']}" for row in rows]
    assert all(
        abs(c * v - t) < 1e-6 for c, v, t in zip(*(found[f"p_{n}"] for n in ("ctr", "cvr", "ctcvr")), strict=True)
    )


def test_the_users_column_of_the_training_is_that_of_the_table(run, shown, tmp_path):
    rows = list(csv.DictReader(shown.read_text().splitlines()))
    (tmp_path / "own.csv").write_text("customer" + shown.read_text().removeprefix("user"))
    people = sorted({row["user"] for row in rows})
    (tmp_path / "people.csv").write_text("customer,tier\n" + "".join(f"{u},{u[-1]}\n" for u in people))
    words = ["--user", "customer", *LABELS, "--field", "tier:categorical", "--users", "people.csv"]
    assert run("prepare", "own.csv", *words, "-o", "data")[0] == 0
    small = ["--set", "epochs=1", "--set", "rows=512", "--set", "device=cpu", "-q"]
    assert run("finetune", "--task", "esmm", "--data", "data", *small, "-o", "model")[0] == 0
    code, _, err = run("predict", "own.csv", "--model", "model", "--users", "people.csv", "-o", "p.parquet")
    assert code == 0, err
