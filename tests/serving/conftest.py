"""Encoder, runs of every kind, and logs of users, as lists and as files."""

import numpy as np
import pyarrow as pa
import pytest
from served_runs import ranking_run, task_run

from peterrec.encoders.loading import open_encoder


@pytest.fixture(scope="session")
def runs(encoder_folder, tmp_path_factory):
    """Folders of runs on the encoder: two heads, three patches, two LoRAs, and so on."""
    folder = tmp_path_factory.mktemp("served")
    _, vocabulary = open_encoder(encoder_folder)
    for seed, (name, adapter, changes) in enumerate(
        [
            ("head", "none", {"readout": "mean"}),
            ("head_last", "none", {"readout": "last"}),
            ("head_short", "none", {"readout": "mean", "max_length": 5}),
            ("head_too", "none", {"readout": "mean", "layers": [0, -1]}),
            ("serial", "serial", {"readout": "mean"}),
            ("serial_too", "serial", {"readout": "mean"}),
            ("serial_tcl", "serial", {"readout": "tcl"}),
            ("parallel", "parallel", {"readout": "mean"}),
            ("lora", "lora", {"readout": "mean"}),
            ("lora_too", "lora", {"readout": "mean"}),
            ("ln", "ln_tuning", {"readout": "mean"}),
            ("full", "full", {"readout": "mean"}),
            ("windows", "none", {"readout": "mean", "max_length": "all", "window": 4}),
            ("serial_windows", "serial", {"readout": "sqrtn", "max_length": "all", "window": 4}),
            ("serial_windows_too", "serial", {"readout": "attention", "max_length": "all", "window": 4}),
        ]
    ):
        task_run(folder / name, encoder_folder, adapter=adapter, seed=seed, **changes)
    targets = [f"t{number}" for number in range(20)]
    ranking_run(folder / "cold", encoder_folder, items=targets)
    ranking_run(folder / "cold_serial", encoder_folder, items=targets, adapter="serial", seed=1)
    some = vocabulary.ids(np.arange(5, 25))
    one_log = {"target_items": {"column": "kind", "value": "t"}}
    ranking_run(folder / "cold_one", encoder_folder, items=some, seed=2, **one_log)
    ranking_run(folder / "cold_mixed", encoder_folder, items=some, seed=3, history="mixed", **one_log)
    return folder


@pytest.fixture(scope="session")
def histories(encoder_folder):
    """Twelve users: short, long, repeating, with unknown items, with nothing known, and with nothing."""
    _, vocabulary = open_encoder(encoder_folder)
    random = np.random.default_rng(4)
    lists = [vocabulary.ids(random.integers(3, len(vocabulary), n)) for n in (1, 2, 7, 12, 20, 33, 70, 5, 9)]
    lists[2][3] = lists[4][0] = "never seen"
    return [*lists, ["nobody", "knows"], [], lists[3][:4]]


@pytest.fixture(scope="session")
def log(histories, tmp_path_factory):
    """Their events as a file."""
    path = tmp_path_factory.mktemp("log") / "events.csv"
    rows = [f"u{user:02},{item},{at}" for user, items in enumerate(histories) for at, item in enumerate(items)]
    path.write_text("\n".join(["user,item,time", *rows]) + "\n")
    return path


@pytest.fixture(scope="session")
def wanted_users(histories):
    return pa.chunked_array([[f"u{user:02}" for user in range(len(histories))]])
