"""The commands that use a finished run which ranks items."""

import shlex
from pathlib import Path

from peterrec.data.domain_logs import DomainLogs, OneLog


def recommend_commands(folder: Path, logs: DomainLogs, *, mixed: bool) -> list[str]:
    """`recommend`, with the columns of the logs that the run in `folder` was made from, and `evaluate`."""
    columns = logs.columns if isinstance(logs, OneLog) else logs.source_columns
    named = [("--user", columns.user), ("--item", columns.item), ("--time", columns.time)]
    if mixed and not isinstance(logs, OneLog):
        of_target = (logs.target_columns.user, logs.target_columns.item, logs.target_columns.time)
        named.append(("--target", "TARGET_LOG"))
        named += [
            (option.replace("--", "--target-"), column)
            for (option, same), column in zip(named[:3], of_target, strict=True)
            if column != same
        ]
    options = " ".join(f"{option} {shlex.quote(column)}" for option, column in named if column)
    model = shlex.quote(str(folder))
    return [
        f"peterrec recommend LOG {options} --model {model} --output recommended.parquet",
        f"peterrec evaluate --model {model}",
    ]
