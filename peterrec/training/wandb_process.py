"""The one door to wandb: a process of its own that turns JSON lines on its standard input into a run.

It runs as a script, not as a module of the package: what wandb does to a process (exit hooks, signal
handlers, threads, slow or hanging calls) happens here, away from the training. The reason of a record that
fails goes to standard error, and the next one is tried.
"""

import json
import re
import sys
import traceback
from pathlib import Path
from typing import Any

VALID = re.compile(r"[^A-Za-z0-9_.-]+")


def serve() -> int:
    """Read records until the input ends; the number of those that failed (1 if the run could not begin)."""
    import wandb

    begin = json.loads(sys.stdin.readline())
    run = wandb.init(
        project=begin["project"],
        name=begin["name"],
        config=begin["config"],
        dir=begin["folder"],
        id=begin["run_id"],
        resume="allow",
        mode=begin["mode"],
        settings=wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )
    failed = 0
    for line in sys.stdin:
        record = json.loads(line)
        try:
            _HANDLERS[record["kind"]](run, record, online=begin["mode"] == "online")
        except Exception:  # noqa: BLE001 (whatever wandb raises concerns this record only)
            failed += 1
            print(f"{record['kind']} {record.get('name', '')} failed:", file=sys.stderr)
            traceback.print_exc()
    run.finish()
    return failed


def _metrics(run: Any, record: dict[str, Any], *, online: bool) -> None:
    run.log(record["metrics"], step=record["step"])


def _table(run: Any, record: dict[str, Any], *, online: bool) -> None:
    import wandb

    run.log({record["name"]: wandb.Table(columns=record["columns"], data=record["rows"])})


def _artifact(run: Any, record: dict[str, Any], *, online: bool) -> None:
    import wandb

    uses = [VALID.sub("-", name) for name in record["uses"]]
    # an offline run cannot point at another run's artifact: the lineage stands in the metadata either way
    artifact = wandb.Artifact(VALID.sub("-", record["name"]), type=record["type"], metadata={"uses": uses})
    for file in map(Path, record["files"]):
        if file.is_dir():
            artifact.add_dir(str(file), name=file.name)
        else:
            artifact.add_file(str(file), name=file.name)
    if online:
        for name in uses:
            run.use_artifact(f"{name}:latest")
    run.log_artifact(artifact)


_HANDLERS = {"metrics": _metrics, "table": _table, "artifact": _artifact}


if __name__ == "__main__":
    sys.exit(min(serve(), 100))
