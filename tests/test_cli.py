"""The command line, in this process: what a user types, sees and gets back when it is wrong."""

import gzip
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec import cli
from peterrec.stages.world import log_files

COLUMNS = ["--user", "user", "--item", "item", "--time", "timestamp"]
COMMANDS = [
    *("check", "compare", "encode", "evaluate", "fetch", "finetune", "fuse", "list", "predict", "prepare", "pretrain"),
    *("publish", "recommend", "serve", "show"),
]


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


@pytest.fixture
def logs(world_log):
    return [str(path) for path in log_files(world_log)]


def read(path: Path) -> list[str]:
    """The lines of a text file, gzipped or not."""
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode().splitlines()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_commands_are_these(run):
    assert sorted(command.name or command.callback.__name__ for command in cli.app.registered_commands) == COMMANDS
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Example:" in out
    assert f"peterrec {command}" in " ".join(out.replace("│", " ").split())


def test_a_bare_command_prints_the_help(run):
    code, out, _ = run()
    assert (code, "Exit codes" in out) == (0, True)
    code, out, _ = run("--version")
    assert (code, out.startswith("peterrec ")) == (0, True)


def examples() -> dict[str, list[str]]:
    """The example in each command's help, as arguments."""
    found = {}
    for command in cli.app.registered_commands:
        text = " ".join(command.callback.__doc__.split())
        example = re.fullmatch(r".*Example: `peterrec ([^`]+)`", text)
        assert example, f"no example closes the help: {text}"
        arguments = shlex.split(example[1])
        found[arguments[0]] = arguments
    return found


def test_every_example_of_the_help_works_as_it_stands(run, world_log, tmp_path):
    """The whole road, on a log of our own; only settings that make training short are added."""
    rows = {name: [line.split(",") for line in read(world_log / name)] for name in ("log-0.csv", "log-1.csv.gz")}
    for name in rows:
        rows[name][0] = ["customer", "product", "at"]
    for number, part in enumerate(rows.values()):
        with gzip.open(tmp_path / f"clicks-{number}.csv.gz", "wt") as stream:
            stream.writelines(",".join(row) + "\n" for row in part)
    log = [*rows["log-0.csv"][1:], *rows["log-1.csv.gz"][1:]]
    columns = {name: [row[n] for row in log] for n, name in enumerate(("customer", "product", "at"))}
    pq.write_table(pa.table({**columns, "at": pa.array(map(int, columns["at"]), pa.int64())}), "clicks.parquet")
    write(tmp_path / "new.csv", "customer,product,at\n" + "".join(",".join(row) + "\n" for row in log[:3000]))
    names, *people = [line.split(",") for line in read(world_log / "users.csv")]
    names[0] = "customer"
    Path("people.csv").write_text("".join(",".join(row) + "\n" for row in [names, *people]))
    pq.write_table(pa.table({name: [row[n] for row in people] for n, name in enumerate(names)}), "people.parquet")
    short = {
        "pretrain": [
            "-s",
            "encoder.hidden_size=16",
            "-s",
            "encoder.kind=nextitnet",
            "-s",
            "encoder.dilations=[1,2]",
            "-s",
            "training.epochs=1",
        ],
        "finetune": ["-s", "epochs=1"],
        "compare": ["-s", "epochs=1", "--seeds", "1", "--labels", "150", "--learning-rates", "recipe"],
    }
    told = {}
    for command, arguments in examples().items():
        if command == "evaluate":  # on other data, of the same vocabulary
            people_too = ["--users", "people.csv", "--user", "customer", "--item", "product", "--time", "at"]
            assert run("prepare", "new.csv", *people_too, "-e", "runs/encoder", "-o", "other-data")[0] == 0
        if command == "fuse":  # what was predicted of rows whose labels are known
            draw = random.Random(1)
            shown = [(draw.randrange(30), draw.random(), draw.random()) for _ in range(600)]
            click = [int(draw.random() < ctr) for _, ctr, _ in shown]
            table = {"user": [user for user, _, _ in shown], "click": click}
            table["conversion"] = [c * (draw.random() < cvr) for c, (_, _, cvr) in zip(click, shown, strict=True)]
            table |= {"p_ctr": [ctr for _, ctr, _ in shown], "p_cvr": [cvr for _, _, cvr in shown]}
            pq.write_table(pa.table(table), "predictions.parquet")
        code, out, err = run(*arguments, *short.get(command, ()))
        assert code == 0, f"peterrec {shlex.join(arguments)}: {err}"
        assert not [line for line in err.splitlines() if "warn" in line.lower()], err
        told[command] = out + err
    assert "all can be used" in told["check"]
    assert "peterrec pretrain data" in told["prepare"]
    assert "epoch   1" in told["pretrain"]
    assert "markov" in told["pretrain"]
    assert "bag_of_items" in told["finetune"]
    assert json.loads(Path("runs/gender/metrics.json").read_text())["seeds"] == [0, 1, 2]
    assert Path("runs/gender-evaluation/report.html").is_file()
    counted = len({row[0] for row in log[:3000]})
    assert pq.read_metadata("genders.parquet").num_rows == counted
    assert f"users: {counted}" in told["predict"]
    assert "weighted mean" in told["fuse"]
    assert pq.read_table("fused/fused.parquet")["p_ctr"].to_pylist() == table["p_ctr"]
    assert pq.read_schema("users.parquet").field("vector").type.list_size == 16
    assert f"users: {counted}" in told["recommend"]
    assert len(set(pq.read_table("next.parquet")["user"].to_pylist())) == counted
    assert all(name in told["list"] for name in ("runs/encoder", "runs/gender"))
    assert "encoder.hidden_size" in told["show"]
    assert '"probabilities"' in told["serve"]
    code, out, _ = run("show", "runs/gender")
    assert (code, "encoder_revision" in out) == (0, True)


@pytest.fixture
def small_world(monkeypatch):
    """The embedded world, small."""
    from peterrec.data.synthetic import WorldSettings
    from peterrec.stages import world

    monkeypatch.setattr(world, "DEFAULT", WorldSettings(users=300, items=80, target_items=40, mean_length=20))


@pytest.mark.usefixtures("small_world")
def test_the_embedded_world_is_there_without_arguments(run):
    code, out, err = run("check")
    assert code == 3
    assert "8 rows" in out
    assert err == ""
    written = Path("runs/world-raw/log-0.csv").stat().st_mtime_ns
    assert run("check")[0] == 3
    assert Path("runs/world-raw/log-0.csv").stat().st_mtime_ns == written
    code, _, _ = run(
        "pretrain",
        "-q",
        "-s",
        "encoder.hidden_size=8",
        "-s",
        "encoder.kind=nextitnet",
        "-s",
        "encoder.dilations=[1,2]",
        "-s",
        "training.epochs=1",
    )
    assert code == 0
    code, out, _ = run("finetune", "--task", "gender", "-q", "-s", "epochs=1")
    assert (code, Path("runs/gender/run.json").is_file()) == (0, True)
    code, out, _ = run("compare", "-q", "--adapters", "none", "--controls", "", "-s", "epochs=1")
    assert code == 0
    assert "oracle" in out
    assert "search" in out
    code, out, _ = run("predict")
    assert (code, "users: 300" in out) == (0, True)
    assert run("encode")[0] == 0
    code, out, _ = run("recommend", "--top", "3")
    assert (code, "users: 300" in out, "--output" in out) == (0, True, True)
    assert Path("runs/gender-predictions.parquet").is_file()
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]


@pytest.mark.parametrize("command", ["check", "prepare", "predict", "encode", "recommend"])
@pytest.mark.parametrize(
    "option",
    [
        ["--user", "customer"],
        ["--item", "product"],
        ["--time", "at"],
        ["--time-unit", "ms"],
        ["--users", "people.csv"],
        ["--users-column", "customer"],
        ["--format", "movielens"],
        ["--memory-limit", "1GB"],
    ],
    ids=lambda option: option[0],
)
def test_an_option_about_a_log_needs_a_log(run, command, option, encoder_folder, task_folder):
    models = {"predict": ["-m", task_folder], "encode": ["-e", encoder_folder], "recommend": ["-m", encoder_folder]}
    model = models.get(command, [])
    code, _, err = run(command, *option, *model)
    assert code == 2
    assert "LOG is missing" in err
    assert option[0] in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        ["--fractions", "0.7,0.9"],
        ["--seed", "1"],
        ["--encoder", "ENC"],
        ["--min-item-count", "2"],
        ["--min-user-events", "2"],
        ["--bad-rows", "drop"],
    ],
    ids=lambda option: option[0],
)
def test_an_option_of_prepare_needs_a_log(run, option, encoder_folder):
    code, _, err = run("prepare", "-o", "x", *[encoder_folder if word == "ENC" else word for word in option])
    assert (code, "LOG is missing" in err) == (2, True)
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("small_world")
def test_preparing_without_a_log_touches_no_folder_of_others(run, tmp_path):
    mine = tmp_path / "data-log"
    mine.mkdir()
    write(mine / "log-0.csv", "mine")
    for overwrite in ([], ["--overwrite"]):
        assert run("prepare", "-o", "data", *overwrite)[0] == 0
        assert [path.read_text() for path in mine.iterdir()] == ["mine"]
    for name, command in (("world-log", ["prepare", "-o", "other"]), ("world-raw", ["check"])):
        shutil.rmtree(Path("runs") / name, ignore_errors=True)
        shutil.copytree(mine, Path("runs") / name)
        write(Path("runs") / name / "world.json", '{"users": 10}')
        code, _, err = run(*command, *(["--overwrite"] if command[0] == "prepare" else []))
        assert (code, f"runs/{name}" in err, "log-0.csv" in err) == (2, True, True)
        assert (Path("runs") / name / "log-0.csv").read_text() == "mine"
        assert not Path("other").exists()


@pytest.mark.usefixtures("small_world")
def test_a_log_of_ones_own_in_the_place_of_the_world_is_not_taken_for_it(run, logs):
    assert run("prepare", logs[0], *COLUMNS, "-o", "runs/world")[0] == 0
    code, _, err = run("pretrain", "-o", "x")
    assert (code, "holds another log" in err) == (2, True)


def test_the_folder_that_one_stands_in(run, logs, encoder_folder, task_folder, prepared_folder, tmp_path, monkeypatch):
    for name, folder in (("enc", encoder_folder), ("task", task_folder)):
        shutil.copytree(folder, tmp_path / "models" / name)
    monkeypatch.chdir(tmp_path / "models" / "task")
    assert run("predict", *logs, *COLUMNS, "-m", ".", "-e", encoder_folder)[0] == 0
    assert (tmp_path / "models" / "task-predictions.parquet").is_file()
    assert run("evaluate", "-m", ".", "-e", encoder_folder, "-d", prepared_folder)[0] == 0
    assert "Evaluation of task" in (tmp_path / "models" / "task-evaluation" / "report.html").read_text()
    monkeypatch.chdir(tmp_path / "models" / "enc")
    assert run("encode", *logs, *COLUMNS, "-e", ".")[0] == 0
    assert (tmp_path / "models" / "enc-vectors.parquet").is_file()
    code, _, err = run("evaluate", "-m", "/")
    assert (code, "/" in err) == (2, True)


def test_lists_and_settings(run):
    code, out, _ = run("list")
    assert code == 0
    assert all(name in out for name in ("serial", "none", "full", "gender", "age", "occupation"))
    for stage, key in (("pretrain", "encoder.hidden_size"), ("finetune", "learning_rate")):
        code, out, _ = run("show", "settings", stage)
        assert (code, key in out) == (0, True)
    code, out, _ = run("show", "serial")
    assert (code, "serial_conv" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["finetune", "--task", "gendr", "-e", "ENC"], 2, "Did you mean 'gender'"),
        (["finetune", "--adapter", "serail", "-e", "ENC"], 2, "Did you mean 'serial'"),
        (["finetune", "-e", "ENC", "--set", "learning_rat=1"], 2, "Did you mean 'learning_rate'"),
        (["finetune", "-e", "ENC", "--set", "epochs=many"], 2, "epochs"),
        (["finetune", "-e", "ENC", "--labels", "100000"], 2, "--labels 100000"),
        (["finetune", "-e", "nowhere"], 2, "nowhere"),
        (["finetune"], 2, "peterrec pretrain"),
        (["pretrain", "PREPARED", "-o", "x", "--set", "encoder.hiden_size=8"], 2, "Did you mean 'encoder.hidden_size'"),
        (
            [
                "pretrain",
                "PREPARED",
                "-o",
                "x",
                "--set",
                "encoder.kind=nextitnet",
                "--set",
                "encoder.dilations=[1,2,4]",
            ],
            2,
            "dilations",
        ),
        (["pretrain", "PREPARED", "-o", "x", "--config", "missing.toml"], 2, "missing.toml"),
        (["pretrain", "PREPARED", "-o", "ENC"], 2, "--overwrite"),
        (["pretrain", "PREPARED", "-o", "x", "--config", "FOLDER"], 2, "Is a directory"),
        (["pretrain", "nowhere", "-o", "x"], 2, "nowhere"),
        (["pretrain", "ENC", "-o", "x"], 2, "`peterrec pretrain`"),
        (["pretrain", "PREPARED", "-o", "LOG/x"], 2, "is a file"),
        (["pretrain", "PREPARED", "-o", "LOG"], 2, "is a file"),
        (["pretrain", "n" * 300, "-o", "x"], 2, "File name too long"),
        (["finetune", "-e", "ENC", "-d", "nowhere", "-o", "x"], 2, "nowhere"),
        (["encode", "LOG", "-e", "nowhere", "-o", "x"], 2, "nowhere"),
        (["encode", "LOG", "-e", "ENC", "-o", "FOLDER"], 2, "is a folder"),
        (["encode", "LOG", "-e", "ENC", "-o", "LOG/x"], 2, "is a file"),
        (["predict", "LOG", "-m", "ENC", "-o", "x"], 2, "peterrec finetune"),
        (["prepare", "LOG", "-o", "LOG/x"], 2, "is a file"),
        (["prepare", "LOG", "-e", "nowhere", "-o", "x"], 2, "nowhere"),
        (["prepare", "LOG", "--users", "nowhere.csv", "-o", "x"], 3, "nowhere.csv"),
        (["prepare", "LOG", "--time-unit", "ms", "-o", "x"], 2, "--time-unit ms needs --time"),
        (["prepare", "LOG", "LOG", "--format", "tenrec", "-o", "x"], 2, "--format tenrec reads one path"),
        (["check", ""], 2, "LOG is empty"),
        (["list", "runs", "--folder", "nowhere"], 2, "nowhere"),
        (["pretrain", "PREPARED", "-o", "x", "--nonsense"], 2, "nonsense"),
        (["compare", "-e", "ENC", "--controls", "scrach"], 2, "Did you mean 'scratch'"),
        (["compare", "-e", "ENC", "--learning-rates", "fast"], 2, "such as 0.0005,0.002,0.008, or the word recipe"),
        (["compare", "-e", "ENC", "--set", "learning_rate=1"], 2, "--learning-rates 1 instead"),
        (["predict", "LOG", "-m", "nowhere"], 2, "nowhere"),
        (["predict", "LOG", "-m", "TASK", "--time", "timestamp", "-e", "nowhere"], 2, "--encoder"),
        (["recommend", "LOG", "-o", "x"], 2, "peterrec pretrain"),
        (["recommend", "LOG", "-m", "ENC", "-o", "x"], 2, "call it x.parquet"),
        (["recommend", "LOG", "-m", "ENC", "-k", "0"], 2, "-k"),
        (["recommend", "LOG", "-m", "ENC", "--overwrite"], 2, "--overwrite"),
        (["recommend", "LOG", "-m", "ENC", "-o", "x.parquet", "--show", "3"], 2, "--show"),
        (["recommend", "LOG", "-m", "ENC", "--time", "timestamp", "--target", "LOG"], 2, "--target"),
        (["recommend", "LOG", "-m", "ENC", "--time", "timestamp", "--allow", "nowhere.txt"], 2, "--allow nowhere.txt"),
        (["recommend", "LOG", "-m", "ENC", "--time", "timestamp", "--block", "EMPTY"], 3, "no items"),
        (["recommend", "nowhere.csv", "-m", "ENC", "--time", "timestamp"], 3, "nowhere.csv"),
        (["recommend", "LOG", "-m", "TASK", "--time", "timestamp"], 2, "peterrec predict"),
        (["evaluate", "-m", "PREPARED"], 2, "pretrain or finetune"),
        (["show", "settings", "pretrian"], 2, "Did you mean 'pretrain'"),
        (["list", "adaptors"], 2, "adapters"),
        (["check", "nothing-*.csv"], 3, "nothing-*.csv"),
        (["check", "LOG", "--time", "timestmp"], 3, "Did you mean 'timestamp'"),
        (["prepare", "LOG", "--item", "product", "-o", "x"], 3, "product"),
        (["prepare", "LOG"], 2, "--output"),
        (["prepare", "LOG", "--split", "temporal", "-o", "x"], 2, "needs times"),
        (["prepare", "LOG", "--fractions", "a,b", "-o", "x"], 2, "--fractions"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(
    run, logs, encoder_folder, prepared_folder, task_folder, tmp_path, arguments, code, message
):
    places = {"ENC": encoder_folder, "PREPARED": prepared_folder, "TASK": task_folder, "LOG": logs[0]}
    places |= {"FOLDER": encoder_folder.parent, "LOG/x": f"{logs[0]}/x", "EMPTY": write(tmp_path / "empty.txt", "\n")}
    found, out, err = run(*[places.get(argument, argument) for argument in arguments])
    text = " ".join((out + err).replace("│", " ").split())
    assert found == code, text
    assert message in text
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("file", "text", "code", "command"),
    [
        ("enc/run.json", '{"format_version": 1, "stage": "pretrain"}', 7, ["finetune", "-e", "enc", "-o", "x"]),
        ("enc/run.json", '{"format_version": 1, "stage": "pretrain"}', 7, ["encode", "LOG", "-e", "enc", "-o", "x"]),
        ("enc/run.json", "[]", 7, ["prepare", "LOG", "-e", "enc", "-o", "x"]),
        ("data/summary.json", "{}", 3, ["pretrain", "data", "-o", "x"]),
        ("data/summary.json", "[]", 3, ["pretrain", "data", "-o", "x"]),
        ("data/summary.json", "", 3, ["finetune", "-e", "enc", "-d", "data", "-o", "x"]),
        ("task/run.json", '{"format_version": 1, "stage": "finetune"}', 7, ["predict", "LOG", "-m", "task", "-o", "x"]),
        ("enc/run.json", '{"format_version": 1, "stage": "pretrain"}', 7, ["recommend", "LOG", "-m", "enc"]),
    ],
)
def test_damaged_folders_are_told(
    run, logs, encoder_folder, prepared_folder, task_folder, tmp_path, file, text, code, command
):
    folder = {"enc": encoder_folder, "data": prepared_folder, "task": task_folder}
    for name in {"enc", file.partition("/")[0]}:
        shutil.copytree(folder[name], tmp_path / name)
    write(tmp_path / file, text)
    found, _, err = run(*[logs[0] if word == "LOG" else word for word in command])
    assert (found, file in err, "damaged" in err) == (code, True, True), err
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("user,item,timestamp", "--time timestamp"),
        ("user,item,Event_Time", "--time Event_Time"),
        ("user;item;ts", "--time ts"),
        ("user,item,price", None),
    ],
)
def test_file_order_is_told(run, tmp_path, header, hint):
    separator = ";" if ";" in header else ","
    rows = "".join(separator.join((f"u{n % 3}", f"i{n % 5}", str(1_700_000_000 + n))) + "\n" for n in range(30))
    log = write(tmp_path / "log.csv", f"{header}\n{rows}")
    code, out, err = run("check", log, "--json")
    assert code == 0
    assert json.loads(out)["ok"]
    assert "file order" in err
    assert ("add --time" in err) == (hint is not None)
    assert hint is None or hint in err
    code, _, err = run("prepare", log, "-o", "data")
    assert (code, "file order" in err) == (0, True)
    if hint is not None:
        assert "file order" not in run("check", log, "--time", hint.split()[1])[2]


@pytest.mark.parametrize("unit", ["auto", "ms", "order"])
def test_the_unit_of_times_is_what_is_said(run, tmp_path, unit):
    rows = "".join(f"u{n % 3},i{n % 5},{1_700_000_000_000 + 1000 * n}\n" for n in range(30))
    log = write(tmp_path / "log.csv", f"user,item,time\n{rows}")
    assert run("prepare", log, "--time", "time", "--time-unit", unit, "-o", "data")[0] == 0
    time = json.loads(Path("data/summary.json").read_text())["time"]
    assert time["unit"] == ("ms" if unit == "auto" else unit)
    assert time["first"] == 1_700_000_000_000 * (1 if unit == "order" else 1000)
    assert run("check", log, "--time", "time", "--time-unit", "s")[0] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("user,item,timestamp\n", ["there are no rows"]),
        ("user,item,timestamp\nann,a,1700000000\nbob,b\n", ["row 3", "too few fields"]),
        ("user,item,timestamp\nann,a,1700000000\n,b,1700000001\n", ["'user'", "row 3"]),
        ("user,item,timestamp\nann,,1700000000\nann,b,1700000001\n", ["'item'", "row 2"]),
        ("user,item,timestamp\nann,a,yesterday\nann,b,1700000001\n", ["'timestamp'", "'yesterday'", "row 2"]),
    ],
)
def test_bad_logs_name_file_row_column_and_value(run, tmp_path, text, words):
    log = write(tmp_path / "log.csv", text)
    code, out, err = run("prepare", log, *COLUMNS, "--split", "leave_one_out", "-o", "x")
    assert code == 3
    assert "log.csv" in err
    for word in words:
        assert word in err, err
    assert not Path("x").exists()
    code, out, _ = run("check", log, *COLUMNS, "--json")
    assert code == 3
    assert json.loads(out)["problems"]


def test_a_truncated_parquet_file_is_named(run, encoder_folder, tmp_path):
    whole = (encoder_folder / "vocabulary.parquet").read_bytes()
    (tmp_path / "log.parquet").write_bytes(whole[: len(whole) // 2])
    code, _, err = run(
        "prepare", "log.parquet", "--user", "row", "--item", "item", "--split", "leave_one_out", "-o", "x"
    )
    assert code == 3
    assert "log.parquet" in err
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("users", "words"),
    [
        ("user,gender\nu00001,f\nu00001,m\n", ["u00001"]),
        ("user,gender\nnobody,f\nnowhere,m\n", ["absent", "none", "not in the log"]),
        ("user,gender\n", ["empty", "no rows"]),
        ("person,gender\nu00001,f\n", ["user"]),
    ],
)
def test_bad_label_tables(run, logs, tmp_path, users, words):
    table = write(tmp_path / "people.csv", users)
    code, _, err = run("prepare", *logs, *COLUMNS, "--users", table, "-o", "x")
    assert code == 3
    assert "people.csv" in err
    assert any(word in err for word in words), err
    assert not Path("x").exists()


def test_one_class_labels(run, logs, tmp_path, encoder_folder):
    table = write(tmp_path / "people.csv", "user,gender\n" + "".join(f"u{n:05d},f\n" for n in range(400)))
    assert run("prepare", *logs, *COLUMNS, "--users", table, "-e", encoder_folder, "-o", "data")[0] == 0
    code, _, err = run("finetune", "-e", encoder_folder, "-d", "data", "-o", "x")
    assert code == 3
    assert "only the class 'f'" in err
    assert not Path("x").exists()


def test_another_vocabulary_and_another_encoder_are_refused(run, logs, encoder_folder, task_folder, tmp_path):
    assert run("prepare", logs[0], *COLUMNS, "--min-item-count", "5", "-o", "data")[0] == 0
    code, _, err = run("evaluate", "-m", encoder_folder, "-d", "data", "-o", "x")
    assert (code, "vocabulary" in err) == (7, True)
    shutil.copytree(encoder_folder, tmp_path / "enc")
    weights = tmp_path / "enc" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    code, _, err = run("predict", logs[0], *COLUMNS, "-m", task_folder, "-e", "enc", "-o", "p.parquet")
    assert (code, "adapter for the encoder weights" in err) == (7, True)
    assert not Path("p.parquet").exists()


def test_a_folder_in_use_is_busy(run, prepared_folder, tmp_path):
    from peterrec.run_folder import output_folder

    with output_folder(tmp_path / "enc", stage="pretrain"):
        code, _, err = run("pretrain", prepared_folder, "-o", "enc")
    assert code == 6
    assert str(os.getpid()) in err


def test_a_full_disk_ends_with_its_own_code(run, prepared_folder, tmp_path, monkeypatch):
    import errno

    from peterrec.stages import pretrain

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr(pretrain, "save_encoder", full)
    small = [
        "-s",
        "encoder.hidden_size=8",
        "-s",
        "encoder.kind=nextitnet",
        "-s",
        "encoder.dilations=[1,2]",
        "-s",
        "training.epochs=1",
        "-q",
    ]
    code, _, err = run("pretrain", prepared_folder, "-o", "enc", *small)
    assert code == 4
    assert "space" in err
    assert not (tmp_path / "enc" / "model.safetensors").exists()
    assert not (tmp_path / "enc" / "run.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_a_disk_that_really_takes_no_more(run, prepared_folder):
    import resource

    small = [
        "-s",
        "encoder.hidden_size=8",
        "-s",
        "encoder.kind=nextitnet",
        "-s",
        "encoder.dilations=[1,2]",
        "-s",
        "training.epochs=1",
        "-q",
    ]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))  # bytes of any file
    try:
        code, _, err = run("pretrain", prepared_folder, "-o", "x", *small)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 4
    assert "File too large" in err
    assert not Path("x/run.json").exists()
    assert run("pretrain", prepared_folder, "-o", "x", *small)[0] == 0


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from peterrec import cli
from peterrec.training.pretraining import PretrainingProgram
loss, calls = PretrainingProgram.loss, []
def killed(self, step, device):
    calls.append(step)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(self, step, device)
PretrainingProgram.loss = killed
cli.main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_with_the_same_command(run, prepared_folder, tmp_path, monkeypatch):
    from peterrec.training.pretraining import PretrainingProgram

    loss, calls = PretrainingProgram.loss, []

    def counted(self, step, device):
        calls.append(step)
        return loss(self, step, device)

    monkeypatch.setattr(PretrainingProgram, "loss", counted)
    small = [
        "-s",
        "encoder.hidden_size=8",
        "-s",
        "encoder.kind=nextitnet",
        "-s",
        "encoder.dilations=[1,2]",
        "-s",
        "training.epochs=2",
        "-q",
    ]
    small += ["-s", "training.positions=500", "-s", "training.checkpoint_every=2", "-s", "training.device=cpu"]
    assert run("pretrain", prepared_folder, "-o", "whole", *small)[0] == 0
    steps = len(calls)
    assert steps > 12
    command = [sys.executable, "-c", KILLED, "pretrain", str(prepared_folder), "-o", "broken", *small]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert not Path("broken/run.json").exists()
    code, _, err = run("pretrain", prepared_folder, "-o", "broken", *small, "-s", "training.epochs=3")
    assert (code, "training.epochs" in err) == (2, True)
    calls.clear()
    assert run("pretrain", prepared_folder, "-o", "broken", *small)[0] == 0
    assert len(calls) == steps - 4, "the second run goes on after the checkpoint of step 4"
    assert Path("broken/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_an_interrupted_run_says_so(run, prepared_folder, monkeypatch):
    from peterrec.training.pretraining import PretrainingProgram

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(PretrainingProgram, "loss", interrupted)
    small = ["-s", "encoder.hidden_size=8", "-s", "encoder.kind=nextitnet", "-s", "encoder.dilations=[1,2]", "-q"]
    code, _, err = run("pretrain", prepared_folder, "-o", "x", *small)
    assert (code, "Interrupted" in err) == (130, True)


@pytest.mark.slow
def test_wandb_offline(run, prepared_folder):
    small = [
        "-s",
        "encoder.hidden_size=8",
        "-s",
        "encoder.kind=nextitnet",
        "-s",
        "encoder.dilations=[1,2]",
        "-s",
        "training.epochs=1",
        "-q",
    ]
    code, _, err = run("pretrain", prepared_folder, "-o", "x", "--wandb", "offline", *small)
    assert (code, err) == (0, "")
    (file,) = Path("x/wandb").glob("offline-run-*/run-*.wandb")
    assert file.read_bytes()[:4] == b":W&B"
    assert json.loads(Path("x/run.json").read_text())["wandb_run"] in file.name


def test_the_defaults_of_compare_are_those_of_its_stage(run):
    import inspect

    from peterrec.cli.study_options import StudyInput
    from peterrec.cli.training import compare as command
    from peterrec.stages import compare as stage

    told = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    assert told["adapters"] is told["controls"] is told["learning_rates"] is None, "each kind of task has its own"
    assert StudyInput(None).rates == stage.RATES
    _, text, _ = run("compare", "--help")
    words = "".join(text.split()).replace("│", "")
    assert f"[default:{','.join(stage.CONTROLS)};ofimpressionsno_encoder]" in words
    assert "[default:5e-4,2e-3,8e-3;ofimpressionsrecipe]" in words


def test_recommendations_on_the_terminal_are_those_of_the_file(run, logs, encoder_folder, tmp_path):
    given = [*logs, *COLUMNS, "-m", encoder_folder, "-k", "4"]
    assert run("recommend", *given, "-o", "all.parquet")[0] == 0
    rows = pq.read_table("all.parquet").to_pylist()
    code, out, err = run("recommend", *given, "--show", "3")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    shown = [words[-4:] for words in lines if words[-1:] == ["history"]]
    assert shown == [[str(r["rank"]), r["item"], f"{r['score']:.3f}", "history"] for r in rows[:12]]
    assert "Shown are the first 3" in out
    blocked = write(tmp_path / "no.txt", rows[0]["item"] + "\n")
    code, out, _ = run("recommend", *given, "--show", "1", "--block", blocked, "--keep-seen")
    assert (code, "blocked items: 1" in out) == (0, True)
    assert rows[0]["item"] not in out.split()
    nobody = write(tmp_path / "people.csv", "user\nnobody\n")
    code, out, _ = run("recommend", *given, "--users", nobody)
    assert (code, out.count("popularity"), "users without known items: 1" in out) == (0, 4, True)
