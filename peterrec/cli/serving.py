"""`peterrec serve`: one encoder and many tasks over HTTP."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peterrec.cli.options import ENCODER, RUNS, Continued, Device, Where
from peterrec.cli.output import show_table
from peterrec.cli.paths import artefact, encoder_folder
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from rich.table import Table

    from peterrec.serving.server import Server

BOUNDS = "Bounds"


def serve(
    encoder: Annotated[
        Path | None,
        typer.Option(
            "--encoder",
            "-e",
            help="Folder of a pretrained encoder, or its repository: owner/name@revision. [default: that of the first "
            "task]",
            show_default=False,
            callback=artefact,
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            metavar="NAME=RUN",
            help="A task and the folder, or repository, of its finetune run; a folder alone is called by its name. "
            "Repeatable.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    allow_changes: Annotated[
        Path | None,
        typer.Option(
            "--allow-changes",
            metavar="FOLDER",
            help="Let clients add and remove tasks, from runs under this folder alone.",
        ),
    ] = None,
    continued: Continued = False,
    device: Where = Device.auto,
    log_requests: Annotated[bool, typer.Option("--log-requests", help="A line for each request on stderr.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Load everything, answer one request of each kind, and leave.")
    ] = False,
    max_body: Annotated[int, typer.Option(min=1, help="KiB of a request.", rich_help_panel=BOUNDS)] = 4096,
    max_histories: Annotated[
        int, typer.Option(min=1, help="Histories, or impressions, of a request.", rich_help_panel=BOUNDS)
    ] = 512,
    max_events: Annotated[int, typer.Option(min=1, help="Item ids of a request.", rich_help_panel=BOUNDS)] = 100_000,
    max_k: Annotated[int, typer.Option(min=1, help="Items recommended to a user.", rich_help_panel=BOUNDS)] = 1000,
    max_queued: Annotated[
        int, typer.Option(min=1, help="Requests that wait; more get 503.", rich_help_panel=BOUNDS)
    ] = 256,
    batch_rows: Annotated[
        int, typer.Option(min=1, help="Rows from which on no request joins a batch.", rich_help_panel=BOUNDS)
    ] = 512,
    wait: Annotated[
        float, typer.Option(min=0, max=1000, help="Milliseconds that a batch waits for more.", rich_help_panel=BOUNDS)
    ] = 2.0,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that a request may take.", rich_help_panel=BOUNDS)
    ] = 30.0,
) -> None:
    """Serve many tasks from one encoder over HTTP: predict, recommend, encode, in JSON.

    All tasks are trained on that encoder, whose weights are in memory once. Without --task and --encoder, the encoder
    in `runs/encoder` is served with all tasks in `runs` that were trained on it. The page `/docs` describes the
    requests, `/metrics` has figures, `/health/ready` says whether it takes requests. It speaks plain HTTP without
    passwords: put a proxy before it. Needs `pip install "peterrec[serve]"`.

    Example: `peterrec serve --encoder runs/encoder --task gender=runs/gender --port 0 --check`
    """
    from peterrec.serving.limits import Limits
    from peterrec.serving.running import address, http_app, listen
    from peterrec.serving.running import serve as run
    from peterrec.serving.server import Server

    limits = Limits(
        body_bytes=max_body * 1024,
        histories=max_histories,
        events=max_events,
        k=max_k,
        batch_rows=batch_rows,
        wait_ms=wait,
        queued=max_queued,
        timeout=timeout,
    )
    wanted = _wanted(task)
    found = encoder if encoder is not None else _encoder_of(wanted)
    encoder_folder(found)
    if task is None and encoder is None:
        wanted = _world_tasks(found)
    server = Server(found, device=device.value, continued=continued)
    for name, folder in wanted.items():
        server.add(name, folder)
    app = http_app(server, limits=limits, root=allow_changes)
    show_table(_table(server))
    if check:
        from peterrec.serving.trial import answers

        for what, answer in answers(app, server, limits=limits):
            typer.echo(f"{what}: {json.dumps(answer)}")
        return
    listening = listen(host, port)
    where = address(listening)
    run(
        app,
        listening,
        limits=limits,
        log_requests=log_requests,
        ready=lambda: typer.echo(f"Serving {found} on {where} (requests: {where}/docs). Stop with Ctrl-C."),
    )
    typer.echo("Stopped; what was asked has been answered.")


def _wanted(tasks: list[str] | None) -> dict[str, Path]:
    """The runs of the tasks by name. Raises SettingsError for a name given twice."""
    found: dict[str, Path] = {}
    for text in tasks or ():
        name, equals, folder = text.partition("=")
        path = artefact(Path(folder if equals else text))
        assert path is not None
        name = name if equals else path.resolve().name
        if not str(path) or not name or (equals and not folder):
            raise SettingsError(f"--task {text}: write NAME=RUN, such as gender=runs/gender.")
        if name in found:
            raise SettingsError(f"--task {text}: {name} is given twice; choose another name before the =.")
        found[name] = path
    return found


def _encoder_of(wanted: dict[str, Path]) -> Path:
    """The encoder that the first run with one was trained on; that of the embedded world where no task is named."""
    from peterrec.origin import read_origin
    from peterrec.run_record import read_run

    for folder in wanted.values():
        origin = read_origin(folder)
        recorded = _encoder_in(read_run(folder, stage="finetune")) if origin is None else origin.encoder
        if recorded:
            return (folder / recorded).resolve()
    return ENCODER


def _encoder_in(run: dict) -> str:
    inputs = run.get("inputs")
    recorded = inputs.get("encoder") if isinstance(inputs, dict) else None
    return recorded if isinstance(recorded, str) else ""


def _world_tasks(encoder: Path) -> dict[str, Path]:
    """The finished tasks in `runs` that were trained on the encoder; what stands there else is passed over."""
    from peterrec.run_record import read_run

    found = {}
    for path in sorted(RUNS.iterdir()):
        if not (path / "run.json").is_file():
            continue
        run = read_run(path)
        recorded = _encoder_in(run)
        if run.get("stage") == "finetune" and recorded and (path / recorded).resolve() == encoder.resolve():
            found[path.name] = path
    return found


def _table(server: "Server") -> "Table":
    """What is served, and how it shares the encoder."""
    from rich.table import Table

    told = {
        "pass": "one pass with others",
        "batch": "a batch with {}",
        "weights": "weights alone",
        "nothing": "nothing",
    }
    table = Table(title=f"encoder {server.shared.folder}: {server.shared.bytes / 2**20:,.1f} MiB, in memory once")
    for column in ("task", "kind", "adapter", "shares", "own KiB"):
        table.add_column(column, justify="right" if column == "own KiB" else "left")
    for note in server.tasks:
        shares = told[note.shares].format(", ".join(note.with_tasks))
        table.add_row(note.name, note.kind, note.adapter, shares, f"{note.bytes / 1024:,.0f}")
    return table
