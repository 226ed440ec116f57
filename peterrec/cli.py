"""The command line: one command a stage; it parses, calls the stage, and prints what came of it."""

import enum
import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from peterrec.errors import PeterrecError

app = typer.Typer(
    name="peterrec",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Pretrain a user encoder once, adapt it to many tasks with small adapters.

    Without data of your own, every command works on an embedded synthetic world:

        peterrec pretrain
        peterrec finetune --task gender
        peterrec compare --task gender

    With your own logs: `peterrec check LOG`, `peterrec prepare LOG --output data`, `peterrec pretrain data`, and so on.
    Exit codes: 0 ok, 2 usage or settings, 3 data, 4 disk or memory, 5 diverged, 6 folder in use, 7 refused (wrong or
    damaged artefact), 130 interrupted (run the same command to go on).
    """,
)


class Split(enum.StrEnum):
    temporal = "temporal"
    leave_one_out = "leave_one_out"
    by_user = "by_user"


class BadRows(enum.StrEnum):
    fail = "fail"
    drop = "drop"


class Wandb(enum.StrEnum):
    off = "off"
    offline = "offline"
    online = "online"


class Readout(enum.StrEnum):
    mean = "mean"
    last = "last"
    tcl = "tcl"


class Device(enum.StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


Logs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="LOG…",
        help="Files (Parquet, CSV, TSV, JSONL, each also .gz), globs or folders of them; a MovieLens folder, a Tenrec CSV, "
        "PeterRec text, or a `datasets` folder or hub name. Default: the embedded world.",
        show_default=False,
    ),
]
User = Annotated[str | None, typer.Option("--user", metavar="COLUMN", help="Column of the user. [default: user]")]
Item = Annotated[str | None, typer.Option("--item", metavar="COLUMN", help="Column of the item. [default: item]")]
Time = Annotated[
    str | None,
    typer.Option("--time", metavar="COLUMN", help="Column of the time; without it the rows are taken in file order."),
]
Users = Annotated[Path | None, typer.Option("--users", metavar="TABLE", help="Table of users with their labels.")]
UsersColumn = Annotated[str, typer.Option("--users-column", metavar="COLUMN", help="Column of the user in that table.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help="Public format: movielens, tenrec, peterrec_text, huggingface. [default: detected]"),
]
Bad = Annotated[BadRows, typer.Option("--bad-rows", help="Stop at rows that cannot be used, or leave them out.")]
Memory = Annotated[str, typer.Option("--memory-limit", help="Memory for reading and sorting the log.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what a finished run left there.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="TOML", help="Settings; see `peterrec show settings pretrain`."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="One setting, for example training.epochs=3. Repeatable."),
]
Encoder = Annotated[Path, typer.Option("--encoder", "-e", help="Folder of a pretrained encoder.")]
OtherEncoder = Annotated[
    Path | None, typer.Option("--encoder", "-e", help="Folder of its encoder, if it is not where it was.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", "-d", help="Prepared folder. [default: the one the encoder was trained on]"),
]
Task = Annotated[str, typer.Option("--task", "-t", help="A task (`peterrec list tasks`) or the path of a .toml.")]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="How many seeds: 0, 1, …, each with its own split.")]
Labels = Annotated[
    int | None,
    typer.Option("--labels", min=2, help="Use only so many training labels (few-shot); the test stays the same."),
]
Track = Annotated[Wandb, typer.Option("--wandb", help="Track the run with wandb.")]
Where = Annotated[Device, typer.Option("--device", help="Where to compute.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only errors.")]

WORLD, ENCODER, RUNS = Path("runs/world"), Path("runs/encoder"), Path("runs")


@app.command()
def check(
    log: Logs = None,
    user: User = None,
    item: Item = None,
    time: Time = None,
    users: Users = None,
    users_column: UsersColumn = "user",
    format: Format = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    memory_limit: Memory = "2GB",
) -> None:
    """Report every problem of a log: file, row, column, value, count, and what to do.

    Nothing is written. The exit code is 3 if any row cannot be used. Without LOG, the raw log of the embedded world with a
    few bad rows planted in it is checked.

    Example: `peterrec check clicks-*.csv.gz --user customer --item product --time at --users people.parquet`
    """
    from peterrec.stages import check as stage

    if not log:
        log, user, item, time, users = _planted_world()
    with _opened(log, user=user, item=item, time=time, users=users, users_column=users_column, format=format) as given:
        report = stage.run(
            given.log,
            columns=given.columns,
            users=given.users,
            users_column=given.users_column,
            memory_limit=memory_limit,
        )
    if json:
        typer.echo(report.to_json())
    else:
        _print(report.render())
    if not report.ok:
        raise typer.Exit(3)


@app.command()
def prepare(
    log: Logs = None,
    output: Output = None,
    user: User = None,
    item: Item = None,
    time: Time = None,
    users: Users = None,
    users_column: UsersColumn = "user",
    format: Format = None,
    split: Annotated[
        Split | None,
        typer.Option(
            help="temporal: one cut in time for all users; leave_one_out: the last item of each user; by_user: whole "
            "users. [default: temporal, or leave_one_out for a log without times]"
        ),
    ] = None,
    fractions: Annotated[
        str | None, typer.Option(help="Cuts of temporal (0.8,0.9) or shares of by_user (0.7,0.03,0.27).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the users of by_user.")] = 0,
    encoder: Annotated[
        Path | None,
        typer.Option(
            "--encoder",
            "-e",
            help="Use the item vocabulary of this encoder; items that it lacks are left out.",
        ),
    ] = None,
    min_item_count: Annotated[int, typer.Option(min=1, help="Leave out items with fewer events.")] = 1,
    min_user_events: Annotated[int, typer.Option(min=1, help="Leave out users with fewer events.")] = 1,
    bad_rows: Bad = BadRows.fail,
    memory_limit: Memory = "2GB",
    overwrite: Overwrite = False,
) -> None:
    """Turn a log into a prepared folder: sorted, numbered, split, memory-mapped, with a summary.

    The folder is a `datasets.DatasetDict`. Without LOG, the embedded world is generated and prepared in `runs/world`.

    Example: `peterrec prepare clicks.parquet --user customer --item product --time at --users people.csv -o data`
    """
    from peterrec.data.summary import render_summary
    from peterrec.stages import prepare as stage
    from peterrec.stages import world

    if not log:
        output = output or WORLD
        summary = world.run(output=output, split=split or Split.leave_one_out, overwrite=overwrite)
    else:
        if output is None:
            raise typer.BadParameter("name the folder to write, for example --output data", param_hint="--output")
        with _opened(
            log, user=user, item=item, time=time, users=users, users_column=users_column, format=format
        ) as given:
            default = Split.leave_one_out if given.columns.time is None else Split.temporal
            summary = stage.run(
                given.log,
                output=output,
                columns=given.columns,
                users=given.users,
                users_column=given.users_column,
                items=given.items,
                split=split or default,
                split_fractions=_fractions(fractions),
                seed=seed,
                encoder=encoder,
                bad_rows=bad_rows.value,
                memory_limit=memory_limit,
                minimum_item_count=min_item_count,
                minimum_user_events=min_user_events,
                overwrite=overwrite,
            )
    _print(render_summary(summary))
    typer.echo(f"Prepared: {output}\nNext: peterrec pretrain {output}")


@app.command()
def pretrain(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Prepared folder. Default: the embedded world.", show_default=False),
    ] = None,
    output: Output = None,
    config: Config = None,
    set: Set = None,
    wandb: Track = Wandb.off,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain a user encoder by next-item prediction.

    An interrupted run goes on with the same command, bit for bit. Without DATA, the embedded world is used, and the
    encoder is written to `runs/encoder`.

    Example: `peterrec pretrain data -o runs/encoder --set encoder.hidden_size=128 --set training.epochs=30`
    """
    from peterrec.settings import load_settings
    from peterrec.stages import pretrain as stage

    settings = load_settings(stage.PretrainSettings, file=config, overrides=set or ())
    output = output or ENCODER
    metrics = stage.run(
        data or _world(),
        output=output,
        settings=settings,
        overwrite=overwrite,
        wandb=wandb.value,
        progress="silent" if quiet else "auto",
    )
    _results(metrics, output)


@app.command()
def finetune(
    task: Task = "gender",
    encoder: Encoder = ENCODER,
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", "-a", help="An adapter (`peterrec list adapters`) or a .toml. [default: the task's]"),
    ] = None,
    data: Data = None,
    output: Output = None,
    seeds: Seeds = None,
    labels: Labels = None,
    set: Set = None,
    wandb: Track = Wandb.off,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train an adapter and a head for one task on the frozen encoder, beside its baselines.

    Writes to `runs/TASK` unless told otherwise. Settings for `--set` are those of `peterrec show settings finetune`.

    Example: `peterrec finetune --task gender --adapter serial --seeds 3 --set learning_rate=5e-4`
    """
    from peterrec.stages import finetune as stage

    output = output or RUNS / Path(task).stem
    metrics = stage.run(
        task,
        encoder=_encoder(encoder),
        output=output,
        data=data,
        adapter_name=adapter,
        seeds=None if seeds is None else range(seeds),
        labels=labels,
        overrides=set or (),
        overwrite=overwrite,
        wandb=wandb.value,
        progress="silent" if quiet else "auto",
    )
    _results(metrics, output)


@app.command()
def compare(
    task: Task = "gender",
    encoder: Encoder = ENCODER,
    adapters: Annotated[str, typer.Option(help="Adapters, separated by commas; the first is compared with all.")] = (
        "serial,none,full"
    ),
    controls: Annotated[
        str,
        typer.Option(
            help="scratch (random weights, all trained), random (the first adapter on random frozen weights)."
        ),
    ] = "scratch,random",
    data: Data = None,
    output: Output = None,
    seeds: Seeds = None,
    labels: Labels = None,
    set: Set = None,
    wandb: Track = Wandb.off,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Set adapters, controls and baselines side by side on the same users, with intervals and paired gains.

    On the embedded world the oracle's ceiling stands beside them. Writes to `runs/compare-TASK`.

    Example: `peterrec compare --task gender --adapters serial,none --labels 300 --seeds 3`
    """
    from peterrec.stages import compare as stage

    output = output or RUNS / f"compare-{Path(task).stem}"
    metrics = stage.run(
        task,
        encoder=_encoder(encoder),
        output=output,
        data=data,
        adapters=_names(adapters),
        controls=_names(controls),
        seeds=None if seeds is None else range(seeds),
        labels=labels,
        overrides=set or (),
        overwrite=overwrite,
        wandb=wandb.value,
        progress="silent" if quiet else "auto",
    )
    _results(metrics, output)


@app.command()
def evaluate(
    model: Annotated[
        Path, typer.Option("--model", "-m", help="Folder of a finished pretrain or finetune run.")
    ] = ENCODER,
    data: Data = None,
    encoder: OtherEncoder = None,
    output: Output = None,
    device: Where = Device.auto,
    overwrite: Overwrite = False,
) -> None:
    """Measure a finished run again: an encoder by next item, a task by its labels.

    Writes to `MODEL-evaluation`. Users that a task was trained on never count.

    Example: `peterrec evaluate --model runs/gender --data other-data`
    """
    from peterrec.stages import evaluate as stage

    output = output or model.with_name(f"{model.name}-evaluation")
    metrics = stage.run(model, output=output, data=data, encoder=encoder, device=device.value, overwrite=overwrite)
    _results(metrics, output)


@app.command()
def predict(
    log: Logs = None,
    model: Annotated[Path, typer.Option("--model", "-m", help="Folder of a finished finetune run.")] = RUNS / "gender",
    output: Output = None,
    user: User = None,
    item: Item = None,
    time: Time = None,
    users: Users = None,
    users_column: UsersColumn = "user",
    format: Format = None,
    encoder: OtherEncoder = None,
    bad_rows: Bad = BadRows.fail,
    memory_limit: Memory = "2GB",
    device: Where = Device.auto,
    overwrite: Overwrite = False,
) -> None:
    """Predict a task for the users of a log: user, predicted class, probabilities.

    Items that the encoder does not know are left out and counted; a user without known items gets the class shares of the
    training labels. `--users` asks for certain users, with or without events.

    Example: `peterrec predict new.csv --model runs/gender --user customer --item product --time at -o genders.parquet`
    """
    from peterrec.stages import predict as stage

    log, user, item, time = _or_world(log, user, item, time)
    with _opened(log, user=user, item=item, time=time, users=users, users_column=users_column, format=format) as given:
        counts = stage.run(
            given.log,
            model=model,
            output=output or model.with_name(f"{model.name}-predictions.parquet"),
            columns=given.columns,
            users=users,
            users_column=users_column,
            encoder=encoder,
            bad_rows=bad_rows.value,
            memory_limit=memory_limit,
            device=device.value,
            overwrite=overwrite,
        )
    _counts(counts)


@app.command()
def encode(
    log: Logs = None,
    encoder: Encoder = ENCODER,
    output: Output = None,
    user: User = None,
    item: Item = None,
    time: Time = None,
    users: Users = None,
    users_column: UsersColumn = "user",
    format: Format = None,
    readout: Annotated[
        Readout | None, typer.Option(help="How hidden states become a vector. [default: the encoder's]")
    ] = (None),
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Events read of each user. [default: the encoder's]")
    ] = None,
    bad_rows: Bad = BadRows.fail,
    memory_limit: Memory = "2GB",
    device: Where = Device.auto,
    overwrite: Overwrite = False,
) -> None:
    """Write the vectors of a log's users to Parquet: user, vector, events, events_used.

    Example: `peterrec encode new.csv --encoder runs/encoder --user customer --item product --time at -o vectors.parquet`
    """
    from peterrec.stages import encode as stage

    log, user, item, time = _or_world(log, user, item, time)
    with _opened(log, user=user, item=item, time=time, users=users, users_column=users_column, format=format) as given:
        counts = stage.run(
            given.log,
            encoder=_encoder(encoder),
            output=output or encoder.with_name(f"{encoder.name}-vectors.parquet"),
            columns=given.columns,
            users=users,
            users_column=users_column,
            readout=None if readout is None else readout.value,
            max_length=max_length,
            bad_rows=bad_rows.value,
            memory_limit=memory_limit,
            device=device.value,
            overwrite=overwrite,
        )
    _counts(counts)


@app.command(name="list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="adapters, tasks or runs; all by default.")] = None,
    folder: Annotated[Path, typer.Option(help="Where runs are looked for.")] = RUNS,
) -> None:
    """List adapters, tasks and finished runs.

    Example: `peterrec list runs --folder runs`
    """
    from rich.table import Table

    from peterrec.stages import list as stage

    entries = stage.run(kind, folder=folder)
    for found in dict.fromkeys(entry.kind for entry in entries):
        chosen = [entry for entry in entries if entry.kind == found]
        table = Table(
            "name",
            *(("stage", "finished") if found == "runs" else ()),
            "what",
            title=found,
            title_justify="left",
        )
        for entry in chosen:
            table.add_row(entry.name, *((entry.stage, entry.date) if found == "runs" else ()), entry.what)
        _print(table)
    if not entries:
        typer.echo("There is nothing to list yet.")


@app.command()
def show(
    name: Annotated[list[str], typer.Argument(help="A recipe, the folder of a run, or `settings pretrain|finetune`.")],
) -> None:
    """Show a recipe, a finished run, or the settings that a stage takes.

    Example: `peterrec show settings pretrain`
    """
    from peterrec.stages import show as stage

    if name[0] == "settings":
        from peterrec.errors import SettingsError, did_you_mean
        from peterrec.stages.pretrain import PretrainSettings
        from peterrec.training.finetuning import FinetuningSettings

        models = {"pretrain": PretrainSettings, "finetune": FinetuningSettings}
        if len(name) != 2 or name[1] not in models:
            raise SettingsError(f"`peterrec show settings` takes a stage. {did_you_mean(' '.join(name[1:]), models)}")
        typer.echo(stage.run(name[1], settings=models[name[1]]))
        return
    for each in name:
        typer.echo(stage.run(each))


class _Given:
    """A log as the stages take it: files or rows, columns, users, items."""

    def __init__(self, log: Any, columns: Any, users: Any, users_column: str, items: Any = None):
        self.log, self.columns, self.users, self.users_column, self.items = (
            log,
            columns,
            users,
            users_column,
            items,
        )

    def __enter__(self) -> "_Given":
        return self

    def __exit__(self, *_: object) -> None:
        if self._work is not None:
            self._work.cleanup()

    _work: Any = None


def _opened(
    log: list[str],
    *,
    user: str | None,
    item: str | None,
    time: str | None,
    users: Path | None,
    users_column: str,
    format: str | None,
) -> _Given:
    import tempfile

    from peterrec.data import sources
    from peterrec.data.logs.interactions import LogColumns

    named = None
    if user is not None or item is not None or time is not None:
        named = LogColumns(user=user or "user", item=item or "item", time=time)
    reader = format or (sources.detect(log[0]) if len(log) == 1 else None)
    if reader is None:
        return _Given(log, named or LogColumns(time=None), users, users_column)
    if len(log) != 1:
        raise typer.BadParameter(f"--format {format} reads one path, not {len(log)}", param_hint="LOG")
    work = tempfile.TemporaryDirectory(prefix="peterrec-")
    source = sources.load(log[0], reader=reader, columns=named, work=Path(work.name))
    if source.note:
        typer.echo(source.note, err=True)
    table, column = (source.users, source.users_column) if users is None else (users, users_column)
    given = _Given(source.log, source.columns, table, column, source.items)
    given._work = work
    return given


def _planted_world() -> tuple[list[str], str, str, str, Path]:
    from peterrec.stages import world

    folder = RUNS / "world-raw"
    if not folder.is_dir():
        world.write_world(folder, settings=world.DEFAULT, bad_rows=8)
    columns = world.COLUMNS
    assert columns.time is not None
    return (
        [str(path) for path in world.log_files(folder)],
        columns.user,
        columns.item,
        columns.time,
        folder / "users.csv",
    )


def _or_world(
    log: list[str] | None, user: str | None, item: str | None, time: str | None
) -> tuple[list[str], str | None, str | None, str | None]:
    if log:
        return log, user, item, time
    from peterrec.stages import world

    _world()
    raw = WORLD.with_name(f"{WORLD.name}-log")
    columns = world.COLUMNS
    return [str(path) for path in world.log_files(raw)], columns.user, columns.item, columns.time


def _world() -> Path:
    """The embedded world, prepared if it is not yet."""
    from peterrec.stages import world

    if not (WORLD / "run.json").is_file():
        typer.echo(f"Generating and preparing the embedded world in {WORLD} …", err=True)
        world.run(output=WORLD)
    return WORLD


def _encoder(folder: Path) -> Path:
    from peterrec.errors import SettingsError

    if folder == ENCODER and not folder.exists():
        raise SettingsError(
            f"There is no encoder in {ENCODER} yet; run `peterrec pretrain` first, or name one with --encoder."
        )
    return folder


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _fractions(listed: str | None) -> list[float] | None:
    if listed is None:
        return None
    try:
        return [float(part) for part in listed.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{listed!r} is no list of numbers such as 0.8,0.9", param_hint="--fractions"
        ) from None


def _print(renderable: Any) -> None:
    from rich.console import Console

    Console().print(renderable)


def _results(metrics: dict[str, Any], output: Path) -> None:
    from peterrec.report.reading import verdict
    from peterrec.report.tables import results_table

    _print(results_table(metrics))
    typer.echo(verdict(metrics))
    typer.echo(f"\nWritten to {output}: metrics.json, README.md, report.html")


def _counts(counts: dict[str, Any]) -> None:
    for name, value in counts.items():
        typer.echo(
            f"{name.replace('_', ' ')}: {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')}: {value}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and leaves with an exit code; mistakes of the user show no traceback."""
    raise SystemExit(execute(sys.argv[1:] if arguments is None else arguments))


def execute(arguments: list[str]) -> int:
    """Runs the command line in this process and returns the exit code."""
    # libraries must not talk over our output; a user's own choice stands
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        app(arguments, prog_name="peterrec")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        return 130
    except PeterrecError as problem:
        typer.echo(f"error: {problem}", err=True)
        return problem.exit_code
    except MemoryError:
        typer.echo("error: out of memory. Lower --memory-limit, training.positions or encoder.hidden_size.", err=True)
        return 4
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        typer.echo(
            f"error: {problem.strerror}: {problem.filename or 'the disk'}. Free some space and run again.",
            err=True,
        )
        return 4
    return 0
