"""The logs of two domains as the command line names them, opened for a stage; without any, the embedded world's."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from peterrec.cli.log_input import LogOptions, open_log_input
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from peterrec.catalogue import RankingTask
    from peterrec.data.domain_logs import DomainLogs
    from peterrec.data.item_rule import ItemRule


@dataclass(frozen=True)
class DomainOptions:
    """What the options say of the logs; `of_target` are columns of the target log that are called otherwise there."""

    source: list[str] | None
    target: list[str] | None
    columns: LogOptions
    of_target: LogOptions
    items: Path | None = None
    target_items: str | None = None

    def given(self) -> list[str]:
        """The options that were given, for messages."""
        told = {
            "--source": self.source,
            "--target": self.target,
            "--items": self.items,
            "--target-items": self.target_items,
            "--user": self.columns.user,
            "--item": self.columns.item,
            "--time": self.columns.time,
            "--time-unit": None if self.columns.time_unit == "auto" else self.columns.time_unit,
            "--target-user": self.of_target.user,
            "--target-item": self.of_target.item,
            "--target-time": self.of_target.time,
            "--format": self.columns.format,
        }
        return [option for option, value in told.items() if value]

    def words(self) -> list[str]:
        """The options as words of a command."""
        told = [
            *(("--source", path) for path in self.source or ()),
            *(("--target", path) for path in self.target or ()),
        ]
        told += [
            ("--items", self.items),
            ("--target-items", self.target_items),
            ("--user", self.columns.user),
            ("--item", self.columns.item),
            ("--time", self.columns.time),
            ("--time-unit", None if self.columns.time_unit == "auto" else str(self.columns.time_unit)),
            ("--target-user", self.of_target.user),
            ("--target-item", self.of_target.item),
            ("--target-time", self.of_target.time),
            ("--format", self.columns.format),
        ]
        return [str(word) for option, value in told if value for word in (option, value)]


def item_rule(text: str, *, option: str) -> "ItemRule":
    """`COLUMN=VALUE` as a rule. Raises SettingsError for anything else."""
    from peterrec.data.item_rule import ItemRule

    column, equals, value = text.partition("=")
    if not equals or not column.strip() or not value.strip():
        raise SettingsError(f"{option} {text!r}: expected COLUMN=VALUE of the items table, such as genres=Comedy.")
    return ItemRule(column.strip(), value.strip())


@contextmanager
def open_domains(options: DomainOptions, task: "RankingTask") -> Iterator["DomainLogs"]:
    """The logs of a task that ranks items: two, or one that a rule divides; those of the embedded world by default.

    Raises SettingsError for options that do not fit each other or the task, and what `open_log_input` raises.
    """
    from peterrec.data.domain_logs import OneLog, TwoLogs
    from peterrec.data.item_rule import ItemRule

    if not options.source:
        if given := options.given():
            raise SettingsError(
                f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} about logs, and no --source was named. Name "
                "the log of the source domain, or leave all of them out for the embedded world."
            )
        if task.target_items is not None:
            raise SettingsError(
                f"task {task.name} divides one log by {task.target_items.column} = {task.target_items.value!r}; name "
                "it with --source, and its items table with --items."
            )
        from peterrec.stages import world

        yield world.domain_logs()
        return
    rule = None if options.target_items is None else item_rule(options.target_items, option="--target-items")
    if rule is None and task.target_items is not None:
        rule = ItemRule(task.target_items.column, task.target_items.value)
    if options.target and options.target_items is not None:
        raise SettingsError("--target-items divides one log, and --target names a second one; give one of the two.")
    with ExitStack() as opened:
        if options.target:
            of_source, of_target = of_both_logs(options.columns, options.of_target, target=options.target)
            source = opened.enter_context(open_log_input(options.source, of_source, alone=False))
            target = opened.enter_context(open_log_input(options.target, of_target, alone=False))
            items = target.items if options.items is None else options.items
            yield TwoLogs(source.log, target.log, source.columns, target.columns, items=items)
            return
        if rule is None:
            raise SettingsError(
                "There is one log: name that of the target domain with --target, or say which items of this one are "
                "the target domain with --items TABLE --target-items COLUMN=VALUE."
            )
        refuse_columns_of_target(options.of_target)
        source = opened.enter_context(open_log_input(options.source, options.columns))
        items = source.items if options.items is None else options.items
        if items is None:
            raise SettingsError(
                f"the rule {rule.column} = {rule.value!r} needs the table of items that has the column; name it with "
                "--items."
            )
        yield OneLog(source.log, source.columns, items, rule)


def of_both_logs(columns: LogOptions, of_target: LogOptions, *, target: list[str]) -> tuple[LogOptions, LogOptions]:
    """The options of the source and of the target log, of which `columns` and `of_target` were given.

    A column that was not named for the target is called as in the source, but a public format has columns of its own.
    `--format` is of both logs. Raises SettingsError where it cannot be.
    """
    from peterrec.data import sources

    changes = {name: value for name in ("user", "item", "time") if (value := getattr(of_target, name))}
    if changes and columns.format not in (None, "huggingface"):
        named = ", ".join(f"--target-{name}" for name in changes)
        raise SettingsError(
            f"--format {columns.format} is of both logs and has columns of its own, so {named} cannot be. Leave "
            "--format out: each log is looked at by itself."
        )
    found = sources.detect(target[0]) if len(target) == 1 else None
    if not changes and columns.format is None and found not in (None, "huggingface"):
        return columns, LogOptions(users=columns.users, users_column=columns.users_column)
    if columns.time is None and of_target.time is not None:  # then the unit is of the target's times
        return replace(columns, time_unit="auto"), replace(columns, **changes)
    return columns, replace(columns, **changes)


def refuse_columns_of_target(of_target: LogOptions) -> None:
    """Raises SettingsError for columns of a target log where there is none."""
    if of_target.user or of_target.item or of_target.time:
        raise SettingsError("--target-user, --target-item and --target-time are about a log that --target names.")


def refuse_domains(options: DomainOptions, task: str, *, reads: str = "one prepared log") -> None:
    """Raises SettingsError for options about two domains, given for a task that `reads` something else."""
    if given := options.given():
        raise SettingsError(
            f"task {task} reads {reads}; {', '.join(given)} {'is' if len(given) == 1 else 'are'} for tasks that rank "
            "items, such as cold_start. Name its folder with --data."
        )


def refuse_for_ranking(task: "RankingTask", *, data: Path | None, labels: int | None) -> None:
    """Raises SettingsError for options about labelled users, given for a task that ranks items."""
    if data is not None:
        raise SettingsError(
            f"--data: task {task.name} ranks the items of a target domain and reads two raw logs; name them with "
            "--source and --target (or one and a rule: --items, --target-items)."
        )
    if labels is not None:
        raise SettingsError(
            f"--labels: task {task.name} ranks items and has no labels. Fewer training users come from split.fractions "
            "in a task of your own."
        )
