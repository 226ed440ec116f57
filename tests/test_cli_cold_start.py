"""The commands of a cold start as a user types them: columns of the target log, new items, what is refused."""

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from peterrec import cli
from peterrec.cli.domain_input import DomainOptions, open_domains
from peterrec.cli.log_input import LogOptions
from peterrec.data.domain_logs import TwoLogs
from peterrec.ranking_recipe import RankingTask
from peterrec.stages.world import log_files

COLUMNS = ["--user", "user", "--item", "item", "--time", "timestamp"]
OF_TARGET = ["--target-user", "buyer", "--target-item", "article", "--target-time", "bought"]
TASK = """kind = "ranking"
history = "mixed"
item_features = ["genre"]
readout = "mean"
[training]
epochs = 2
device = "cpu"
"""


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
def orders(world_log, tmp_path_factory):
    """The world's target log, its columns called otherwise, and a table of its items."""
    folder = tmp_path_factory.mktemp("orders")
    rows = list(csv.DictReader((world_log / "target.csv").read_text().splitlines()))
    text = "".join(f"{row['user']},{row['item']},{row['timestamp']}\n" for row in rows)
    (folder / "orders.csv").write_text("buyer,article,bought\n" + text)
    items = sorted({row["item"] for row in rows})
    text = "".join(f"{item},{'ab'[number % 2]}\n" for number, item in enumerate(items))
    (folder / "articles.csv").write_text("article,genre\n" + text)
    (folder / "task.toml").write_text(TASK)
    return folder


@pytest.fixture(scope="module")
def source(world_log):
    return [str(path) for path in log_files(world_log)]


@pytest.fixture(scope="module")
def cold(orders, source, encoder_folder):
    """A run of mixed histories that knows attributes, as a user makes it."""
    given = [word for path in source for word in ("--source", path)]
    command = ["finetune", "--task", str(orders / "task.toml"), *given, "--target", str(orders / "orders.csv")]
    command += ["--items", str(orders / "articles.csv"), *COLUMNS, *OF_TARGET, "--encoder", str(encoder_folder)]
    assert cli.execute([*command, "--output", str(orders / "cold"), "--quiet"]) == 0
    return orders / "cold"


def test_columns_of_the_target_log_that_are_called_otherwise(run, cold, orders, source, world_log):
    given = ["recommend", *source, *COLUMNS, "--model", cold, "-k", "6"]
    code, _, err = run(*given, "--target", world_log / "target.csv", "-o", "same.parquet")
    assert (code, err) == (0, "")
    code, _, err = run(*given, "--target", orders / "orders.csv", *OF_TARGET, "-o", "other.parquet")
    assert (code, err) == (0, "")
    assert pq.read_table("other.parquet").equals(pq.read_table("same.parquet"))
    had = {(row["buyer"], row["article"]) for row in csv.DictReader((orders / "orders.csv").read_text().splitlines())}
    rows = pq.read_table("other.parquet").to_pylist()
    assert had.isdisjoint((row["user"], row["item"]) for row in rows)
    (command,) = [line for line in (cold / "README.md").read_text().splitlines() if line.startswith("peterrec recomm")]
    assert "--target TARGET_LOG --target-user buyer --target-item article --target-time bought" in command


def test_new_target_items_are_recommended_by_their_attributes(run, cold, orders, source, tmp_path):
    old = pq.read_table(cold / "target_vocabulary.parquet")["item"].to_pylist()
    (tmp_path / "new.csv").write_text(f"article,genre\nnew1,a\nnew2,b\nnew3,unheard\n{old[0]},b\n")
    (tmp_path / "allowed.txt").write_text("new1\nnew2\nnew3\n")
    given = ["recommend", *source, *COLUMNS, "--model", cold, "--target-item", "article"]
    code, out, err = run(*given, "--items", "new.csv", "--allow", "allowed.txt", "-o", "new.parquet")
    assert (code, err) == (0, "")
    for told in ("new items: 2", "new items without attributes: 1", "allowed items: 2", "unknown allowed items: 1"):
        assert told in out.splitlines()
    rows = pq.read_table("new.parquet").to_pylist()
    assert {row["item"] for row in rows} == {"new1", "new2"}
    assert len({row["score"] for row in rows}) > 2, "users have scores of their own"
    run(*given, "--items", "new.csv", "-k", 500, "-o", "all.parquet")
    run(*given[:-2], "-k", 500, "-o", "before.parquet")
    every = {(row["user"], row["item"]): row["score"] for row in pq.read_table("all.parquet").to_pylist()}
    before = {(row["user"], row["item"]): row["score"] for row in pq.read_table("before.parquet").to_pylist()}
    assert {item for _, item in every} == {*old, "new1", "new2"}
    assert all(every[key] == pytest.approx(score, abs=1e-5) for key, score in before.items()), "the others' stay"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--target-user", "buyer"], 2, "about a log that --target names"),
        (["--items", "ARTICLES", "--target-time", "bought"], 2, "about a log that --target names"),
        (["--target", "ORDERS"], 3, "column 'timestamp': there is no such column"),
        (["--target", "ORDERS", *OF_TARGET, "--format", "movielens"], 2, "--format movielens is of both logs"),
        (["--model", "ENCODER", "--items", "ARTICLES", "--target-item", "article"], 2, "is an encoder: leave it out"),
        (["--items", "absent.csv"], 3, "absent.csv: there is no such file"),
        (["-k", "0"], 2, "-k"),
    ],
)
def test_what_recommend_refuses(run, cold, orders, source, encoder_folder, words, code, told):
    places = {"ORDERS": orders / "orders.csv", "ARTICLES": orders / "articles.csv", "ENCODER": encoder_folder}
    given = [places.get(word, word) for word in words]
    found, out, err = run("recommend", *source, *COLUMNS, "--model", cold, *given, "-o", "no/out.parquet")
    assert (found, out) == (code, "")
    assert told in err
    assert list(Path().rglob("*.parquet")) == []


def test_no_command_overwrites_the_encoder_that_it_reads(run, orders, source, encoder_folder):
    before = {path.name: path.read_bytes() for path in encoder_folder.iterdir() if path.is_file()}
    given = ["--target", orders / "orders.csv", *COLUMNS, *OF_TARGET, "--encoder", encoder_folder]
    for command in ("finetune", "compare"):
        code, _, err = run(command, "--task", "cold_start", "--source", source[0], *given, "-o", encoder_folder,
                           "--overwrite")  # fmt: skip
        assert (code, "holds the output of `peterrec pretrain`" in err) == (2, True)
    after = {path.name: path.read_bytes() for path in encoder_folder.iterdir() if path.is_file()}
    assert after.keys() - {".lock.holder"} == before.keys() - {".lock.holder"}
    assert all(after[name] == before[name] for name in before if name != ".lock.holder")


def test_of_two_logs_both_have_times(run, orders, source, encoder_folder):
    given = ["finetune", "--task", "cold_start", "--source", source[0], "--encoder", encoder_folder, "-o", "x"]
    code, _, err = run(*given, "--target", orders / "orders.csv", *COLUMNS[:4], *OF_TARGET[:4])
    assert code == 3
    assert "the source log has no time column named" in err
    assert "file order" not in err, "which would be no order of two logs"
    code, _, err = run(*given, "--target", orders / "orders.csv", *OF_TARGET[:4])
    assert (code, "--time" in err) == (3, True)


@pytest.mark.parametrize("options", [LogOptions("who", "what", "at", "s"), LogOptions("who", "what", "at")])
def test_a_target_of_a_public_format_has_columns_of_its_own(tmp_path, options):
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "ratings.dat").write_text("1::2::5::978300760\n2::2::4::978300761\n")
    (tmp_path / "ml" / "movies.dat").write_text("2::Film (1999)::Comedy\n")
    (tmp_path / "ml" / "users.dat").write_text("1::F::1::10::48067\n2::M::1::10::48067\n")
    (tmp_path / "clicks.csv").write_text("who,what,at\n1,a,978300700\n")
    task = RankingTask(name="x", kind="ranking")
    ours, theirs = [str(tmp_path / "clicks.csv")], [str(tmp_path / "ml")]
    with open_domains(DomainOptions(ours, theirs, options, LogOptions()), task) as logs:
        assert isinstance(logs, TwoLogs)
        assert (logs.source_columns.user, logs.source_columns.time) == ("who", "at")
        assert (logs.target_columns.user, logs.target_columns.item) == ("user", "item")
        assert logs.target_columns.time is not None
    of_clicks = LogOptions("who", "what", "at")
    with open_domains(DomainOptions(theirs, ours, LogOptions(time_unit="s"), of_clicks), task) as logs:
        assert isinstance(logs, TwoLogs)
        assert (logs.source_columns.user, logs.target_columns.user) == ("user", "who")
        assert (logs.source_columns.time_unit, logs.target_columns.time_unit) == ("auto", "s")


def test_an_encoder_that_went_on_is_taken_when_asked_for(run, cold, source, orders, prepared_folder, encoder_folder):
    went_on = orders / "went_on"
    given = ["--from", encoder_folder, "-o", went_on, "--set", "training.epochs=1", "--quiet"]
    assert run("pretrain", prepared_folder, *given)[0] == 0
    given = ["recommend", *source, *COLUMNS, "--model", cold, "--encoder", went_on, "-o", "next.parquet"]
    code, _, err = run(*given)
    assert (code, "say --continued" in err) == (7, True)
    assert run(*given, "--continued")[0] == 0
    assert pq.read_metadata("next.parquet").num_rows
