"""A hub on this machine, an empty cache, and runs of three kinds of task on one encoder."""

import shutil

import huggingface_hub
import pytest
from hub_server import TOKEN, running_hub

from peterrec import cli


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running hub that the client of this process talks to, with a token, and an empty cache."""
    with running_hub() as running:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.address)
        files = f"{running.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("PETERREC_CACHE", str(tmp_path / "cache"))
        yield running


@pytest.fixture
def encoder(encoder_folder, tmp_path):
    """A copy of the encoder, in which publishing leaves its note."""
    return shutil.copytree(encoder_folder, tmp_path / "runs" / "encoder")


@pytest.fixture
def task(task_folder, tmp_path, encoder):
    """A copy of the task gender beside the copy of its encoder."""
    return shutil.copytree(task_folder, tmp_path / "runs" / "gender")


@pytest.fixture(scope="session")
def cold_start_folder(encoder_folder, world_log):
    """A cold-start run on that encoder."""
    output = encoder_folder.with_name("cold_start")
    command = ["finetune", "--task", "cold_start", "--encoder", encoder_folder, "--output", output, "--quiet"]
    command += ["--source", world_log / "log-0.csv", "--source", world_log / "log-1.csv.gz"]
    command += ["--target", world_log / "target.csv", "--user", "user", "--item", "item", "--time", "timestamp"]
    command += ["--seeds", "1", "--set", "epochs=1", "--set", "device=cpu"]
    assert cli.execute([str(word) for word in command]) == 0
    return output


@pytest.fixture
def cold_start(cold_start_folder, tmp_path, encoder):
    """A copy of it beside the copy of its encoder."""
    return shutil.copytree(cold_start_folder, tmp_path / "runs" / "cold_start")
