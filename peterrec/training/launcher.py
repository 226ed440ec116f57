"""What a launcher (torchrun, accelerate launch) tells the processes that it starts."""

import os

_WANTED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Whether this process was started as one of several."""
    return all(name in os.environ for name in _WANTED) and int(os.environ["WORLD_SIZE"]) > 1


def leads() -> bool:
    """Whether this process was started alone, or as the main one."""
    return not launched() or os.environ["RANK"] == "0"


def processes_here() -> int:
    """How many were started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
