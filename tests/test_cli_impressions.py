"""`check` and `prepare` of impressions as a user types them."""

import csv
import json
import random

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
