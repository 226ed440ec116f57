"""The command line, in this process: what a user types, sees and gets back when it is wrong."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from peterrec import cli
from peterrec.stages.world import log_files

COLUMNS = ["--user", "user", "--item", "item", "--time", "timestamp"]
COMMANDS = ["check", "compare", "encode", "evaluate", "finetune", "list", "predict", "prepare", "pretrain", "show"]


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


def test_the_whole_road(run, logs, world_log, tmp_path):
    small = ["--set", "encoder.hidden_size=16", "--set", "encoder.dilations=[1,2]", "--set", "training.epochs=1"]
    code, out, _ = run("check", *logs, *COLUMNS, "--users", world_log / "users.csv")
    assert (code, "all can be used" in out) == (0, True)
    users = ["--users", world_log / "users.csv"]
    code, out, _ = run("prepare", *logs, *COLUMNS, *users, "--split", "leave_one_out", "-o", "data")
    assert code == 0
    assert "peterrec pretrain data" in out
    code, out, err = run("pretrain", "data", "-o", "enc", *small)
    assert code == 0
    assert "epoch   1" in err
    assert "markov" in out
    assert not [line for line in err.splitlines() if "warn" in line.lower()], err
    code, out, _ = run("finetune", "-t", "gender", "-e", "enc", "-o", "gender", "-s", "epochs=1", "--seeds", "2")
    assert code == 0
    assert "bag_of_items" in out
    assert json.loads(Path("gender/metrics.json").read_text())["seeds"] == [0, 1]
    code, out, _ = run("evaluate", "-m", "gender")
    assert (code, Path("gender-evaluation/report.html").is_file()) == (0, True)
    code, out, _ = run("predict", *logs, *COLUMNS, "-m", "gender", "-o", "p.parquet")
    assert (code, pq.read_metadata("p.parquet").num_rows) == (0, 400)
    assert "users: 400" in out
    code, out, _ = run("encode", *logs, *COLUMNS, "-e", "enc", "-o", "v.parquet", "--readout", "last")
    assert (code, pq.read_schema("v.parquet").field("vector").type.list_size) == (0, 16)
    code, out, _ = run("list", "runs", "--folder", ".")
    assert code == 0
    assert all(name in out for name in ("data", "enc", "gender"))
    code, out, _ = run("show", "gender")
    assert code == 0
    assert "encoder_revision" in out
    # the vocabulary of an encoder for another log
    code, out, _ = run("prepare", logs[0], *COLUMNS, "-e", "enc", "-o", "other", "--split", "leave_one_out")
    assert code == 0
    code, out, _ = run("evaluate", "-m", "enc", "-d", "other", "-o", "e2")
    assert code == 0


def test_the_embedded_world_is_there_without_arguments(run, monkeypatch):
    from peterrec.data.synthetic import WorldSettings
    from peterrec.stages import world

    monkeypatch.setattr(world, "DEFAULT", WorldSettings(users=300, items=80, target_items=40, mean_length=20))
    code, out, _ = run("check")
    assert code == 3
    assert "8 rows" in out
    code, _, _ = run(
        "pretrain", "-q", "-s", "encoder.hidden_size=8", "-s", "encoder.dilations=[1,2]", "-s", "training.epochs=1"
    )
    assert code == 0
    code, out, _ = run("finetune", "--task", "gender", "-q", "-s", "epochs=1")
    assert (code, Path("runs/gender/run.json").is_file()) == (0, True)
    code, out, _ = run("compare", "-q", "--adapters", "none", "--controls", "", "-s", "epochs=1")
    assert code == 0
    assert "oracle" in out
    assert run("predict")[0] == 0
    assert run("encode")[0] == 0
    assert Path("runs/gender-predictions.parquet").is_file()


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
        (["pretrain", "PREPARED", "-o", "x", "--set", "encoder.dilations=[1,2,4]"], 2, "dilations"),
        (["pretrain", "PREPARED", "-o", "x", "--config", "missing.toml"], 2, "missing.toml"),
        (["pretrain", "PREPARED", "-o", "ENC"], 2, "--overwrite"),
        (["pretrain", "nowhere", "-o", "x"], 2, "nowhere"),
        (["pretrain", "PREPARED", "-o", "x", "--nonsense"], 2, "nonsense"),
        (["compare", "-e", "ENC", "--controls", "scrach"], 2, "Did you mean 'scratch'"),
        (["predict", "LOG", "-m", "nowhere"], 2, "nowhere"),
        (["predict", "LOG", "-m", "TASK", "--time", "timestamp", "-e", "nowhere"], 2, "--encoder"),
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
    found, out, err = run(*[places.get(argument, argument) for argument in arguments])
    text = " ".join((out + err).replace("│", " ").split())
    assert found == code, text
    assert message in text
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("user,item,timestamp\n", ["no rows"]),
        ("user,item,timestamp\nann,a,1700000000\nbob,b\n", ["line", "3"]),
        ("user,item,timestamp\nann,a,1700000000\n,b,1700000001\n", ["user", "3"]),
        ("user,item,timestamp\nann,,1700000000\nann,b,1700000001\n", ["item", "2"]),
        ("user,item,timestamp\nann,a,yesterday\nann,b,1700000001\n", ["timestamp", "yesterday", "2"]),
    ],
)
def test_bad_logs_name_file_row_column_and_value(run, tmp_path, text, words):
    log = write(tmp_path / "log.csv", text)
    code, out, err = run("prepare", log, *COLUMNS, "--split", "leave_one_out", "-o", "x")
    assert code == 3
    assert "log.csv" in err
    for word in words:
        assert word in err.replace("row", "line") or word == "no rows", err
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
    small = ["-s", "encoder.hidden_size=8", "-s", "encoder.dilations=[1,2]", "-s", "training.epochs=1", "-q"]
    code, _, err = run("pretrain", prepared_folder, "-o", "enc", *small)
    assert code == 4
    assert "space" in err
    assert not (tmp_path / "enc" / "model.safetensors").exists()
    assert not (tmp_path / "enc" / "run.json").exists()


def test_a_killed_run_goes_on_with_the_same_command(run, prepared_folder, tmp_path, monkeypatch):
    from peterrec.training.pretraining import NextItemProgram

    small = ["-s", "encoder.hidden_size=8", "-s", "encoder.dilations=[1,2]", "-s", "training.epochs=2", "-q"]
    small += ["-s", "training.positions=500", "-s", "training.checkpoint_every=2"]
    assert run("pretrain", prepared_folder, "-o", "whole", *small)[0] == 0
    loss, calls = NextItemProgram.loss, []

    def killed(self, step, device):
        calls.append(step)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return loss(self, step, device)

    monkeypatch.setattr(NextItemProgram, "loss", killed)
    assert run("pretrain", prepared_folder, "-o", "broken", *small)[0] == 130
    monkeypatch.setattr(NextItemProgram, "loss", loss)
    assert not Path("broken/run.json").exists()
    code, _, err = run("pretrain", prepared_folder, "-o", "broken", *small, "-s", "training.epochs=3")
    assert (code, "training.epochs" in err) == (2, True)
    assert run("pretrain", prepared_folder, "-o", "broken", *small)[0] == 0
    assert Path("broken/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert len(calls) == 6, "the second run did not count through the patched loss"
