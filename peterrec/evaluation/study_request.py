"""What a command says of a study: the task, the encoder, the data and how they are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peterrec.data.domain_logs import BadRows, DomainLogs
from peterrec.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """The task and what it is studied on; a kind of task refuses what it has no use for.

    `more_tasks` are those that a comparison sets beside the task, `balancers` what it takes in the place of the
    recipes' own; a fine-tuning takes one at most.
    `data` is a prepared folder and `labels` the budget of training labels; `logs` are those of two domains, read with
    `bad_rows` and `memory_limit`, and `log_words` the options that name them. `overrides` are `key=value` for the
    task's training settings.
    """

    task: str | Path
    more_tasks: Sequence[str | Path] = ()
    balancers: Sequence[str] = ()
    encoder: Path | None
    data: Path | None = None
    logs: DomainLogs | None = None
    log_words: Sequence[str] = ("--source", "LOG", "--target", "LOG")
    bad_rows: BadRows = "fail"
    memory_limit: str = "2GB"
    seeds: Sequence[int] | None = None
    labels: int | None = None
    overrides: Sequence[str] = ()

    def refuse_more_tasks(self) -> None:
        """Raises SettingsError for tasks beside the task, or balancers, of a kind whose contestants are adapters."""
        if self.balancers:
            raise SettingsError(
                f"task {self.task} has no objectives to balance; --balancer and --balancers are for tasks of kind "
                "'impressions'."
            )
        if self.more_tasks:
            raise SettingsError(
                f"task {self.task} compares adapters with each other, not with other tasks such as "
                f"{self.more_tasks[0]}; compare tasks of kind 'impressions', or each by itself."
            )
