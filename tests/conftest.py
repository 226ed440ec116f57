"""A small world, prepared and pretrained on once, for every test that needs one."""

import gc
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tests run side by side


def pytest_collection_finish() -> None:
    """Modules and collected tests live to the end: each training's sweep for garbage need not visit them."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Libraries that look for leaks when the interpreter ends find none."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def world_log(tmp_path_factory) -> Path:
    """Raw files of a world of 400 users: log-0.csv, log-1.csv.gz, users.csv."""
    from peterrec.data.synthetic import WorldSettings
    from peterrec.stages.world import write_world

    folder = tmp_path_factory.mktemp("world") / "raw"
    write_world(folder, settings=WorldSettings(users=400, items=100, target_items=40, mean_length=20))
    return folder


@pytest.fixture(scope="session")
def prepared_folder(world_log) -> Path:
    """That world prepared by leave-one-out, with labels."""
    from peterrec.stages import prepare
    from peterrec.stages.world import COLUMNS, log_files

    output = world_log.with_name("prepared")
    prepare.run(
        log_files(world_log),
        output=output,
        columns=COLUMNS,
        users=world_log / "users.csv",
        split="leave_one_out",
    )
    return output


@pytest.fixture(scope="session")
def small_settings():
    """Pretraining settings that take a second."""
    from peterrec.settings import load_settings
    from peterrec.stages.pretrain import PretrainSettings

    return load_settings(
        PretrainSettings,
        overrides=[
            "encoder.kind=nextitnet",
            "encoder.hidden_size=16",
            "encoder.dilations=[1,2]",
            "encoder.max_length=50",
            "training.epochs=2",
            "training.positions=2000",
            "training.warmup=5",
            "training.device=cpu",
        ],
    )


@pytest.fixture(scope="session")
def encoder_folder(prepared_folder, small_settings) -> Path:
    """An encoder pretrained for two epochs on that world."""
    from peterrec.stages import pretrain

    output = prepared_folder.with_name("encoder")
    pretrain.run(prepared_folder, output=output, settings=small_settings, progress="silent")
    return output


@pytest.fixture(scope="session")
def task_folder(encoder_folder) -> Path:
    """The task gender fine-tuned on it with serial patches."""
    from peterrec.stages import finetune

    output = encoder_folder.with_name("gender")
    finetune.run(
        "gender",
        encoder=encoder_folder,
        output=output,
        seeds=[0, 1],
        overrides=["epochs=2", "device=cpu"],
        progress="silent",
    )
    return output
