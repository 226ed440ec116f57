"""Eight tasks on one encoder against eight fully fine-tuned models: memory, requests a second, latency under a load.

    python scripts/serving.py OUT.json

An encoder with random weights (speed does not depend on them) and runs of eight tasks with classes are written to a
temporary folder. Each system then runs in a process of its own: `heads`, eight heads on the frozen encoder; `mixed`,
four heads, and four with patches inside the encoder; `full`, eight models, each an encoder of its own. All have the
same histories, the same queue and the same two kinds of requests: one user and all eight tasks; one user and one task.

Memory is what loading adds to the process's resident size. Throughput: clients that ask again as soon as they are
answered. Latency: requests that arrive at random (Poisson) at `--load` of the slowest system's throughput, the same
rate for all systems.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from peterrec import catalogue
from peterrec.adaptation import build
from peterrec.atomic import atomic_file
from peterrec.catalogue import TaskRecipe
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.loading import encoder_revision, load_encoder, save_encoder
from peterrec.run_folder import output_folder
from peterrec.run_record import relative_to_run
from peterrec.run_weights import weights_digest
from peterrec.serving.limits import Limits
from peterrec.serving.micro_batches import MicroBatches
from peterrec.serving.requests import Predict
from peterrec.serving.server import Server
from peterrec.settings import dump
from peterrec.task_run import TaskFacts, load_task, save_task

TASKS = 8
SYSTEMS = {"heads": ["none"] * 8, "mixed": ["none"] * 4 + ["serial"] * 4, "full": ["full"] * 8}
REQUESTS = ("all tasks", "one task")


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    if options.child:
        _measure(options)
        return
    with tempfile.TemporaryDirectory(prefix="peterrec-serving-") as temporary:
        folder = Path(temporary)
        _write(folder, options)
        children = {system: _start(system, folder, options) for system in SYSTEMS}
        found: dict[str, Any] = {}
        for system, child in children.items():  # one after the other: each has the machine for itself
            found[system] = _ask(child, {"measure": "throughput"})
        rates = {kind: options.load * min(found[system]["throughput"][kind] for system in SYSTEMS) for kind in REQUESTS}
        for system, child in children.items():
            found[system] |= _ask(child, {"measure": "latency", "rates": rates})
        for child in children.values():
            child.communicate(timeout=60)
    setting = {
        name: getattr(options, name)
        for name in ("items", "channels", "blocks", "events", "users", "clients", "seconds", "load", "threads")
    }
    told = {
        "setting": setting | {"tasks": TASKS, "rates": rates},
        "machine": {"processor": platform.processor(), "cores": os.cpu_count(), "torch": torch.__version__},
        "systems": found,
    }
    Console(width=120).print(_table(told))
    with atomic_file(options.output) as path:
        path.write_text(json.dumps(told, indent=2) + "\n")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path, help="where the JSON goes")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--events", type=int, default=50, help="the longest history")
    parser.add_argument("--users", type=int, default=1000, help="different histories")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--load", type=float, default=0.6, help="share of the slowest system's throughput")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _write(folder: Path, options: argparse.Namespace) -> None:
    """The encoder and the runs of all systems, as the stages would leave them."""
    counts = np.arange(options.items, 0, -1)
    vocabulary = Vocabulary(pa.array([f"item{n:07}" for n in range(options.items)], pa.string()), counts)
    torch.manual_seed(0)
    config = NextItNetConfig(
        vocab_size=len(vocabulary),
        hidden_size=options.channels,
        dilations=tuple([1, 2, 4, 8] * ((2 * options.blocks + 3) // 4))[: 2 * options.blocks],
        max_length=options.events,
        vocabulary_fingerprint=vocabulary.fingerprint,
    )
    encoder = folder / "encoder"
    settings = {"encoder": {"kind": "nextitnet"}, "objective": {"next_item": 1.0}}
    with output_folder(encoder, stage="pretrain", overwrite=False, resume={}) as run:
        with run.files() as here:
            save_encoder(NextItNet(config), config_path=here / "config.json", weights_path=here / "model.safetensors")
            vocabulary.save(here / "vocabulary.parquet")
        run.finish(inputs={}, settings=settings)
    task = TaskRecipe.model_validate(
        {**dump(catalogue.task("gender")), "readout": "mean", "max_length": options.events}
    )
    for system, adapters in SYSTEMS.items():
        for number, name in enumerate(adapters):
            torch.manual_seed(number)
            recipe = catalogue.adapter(name)
            model = build(load_encoder(encoder), adapter=recipe, task=task, num_classes=4)
            facts = TaskFacts(
                task=task,
                adapter=recipe,
                classes=("a", "b", "c", "d"),
                prior=(0.25,) * 4,
                encoder_revision=encoder_revision(encoder),
                vocabulary_fingerprint=vocabulary.fingerprint,
            )
            own = folder / system / f"task{number}"
            with output_folder(own, stage="finetune", overwrite=False, resume={}) as run:
                with run.files() as temporary:
                    save_task(model, folder=temporary, facts=facts)
                facts = facts.model_copy(update={"weights": weights_digest(own, facts)})
                run.finish(inputs={"encoder": relative_to_run(encoder, own)}, model=dump(facts))


def _start(system: str, folder: Path, options: argparse.Namespace) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, str(options.output), "--child", system, "--runs", str(folder)]
    for name in ("items", "events", "users", "clients", "seconds", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(child: "subprocess.Popen[str]", question: dict[str, Any]) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(question) + "\n")
    child.stdin.flush()
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"a measuring process has ended with {child.wait()}")
    return json.loads(line)


def _measure(options: argparse.Namespace) -> None:
    """A child: loads its system when first asked, and answers each question with a line of JSON."""
    torch.set_num_threads(options.threads)
    folders = [options.runs / options.child / f"task{number}" for number in range(TASKS)]
    random.seed(0)
    generator = np.random.default_rng(0)
    lengths = np.minimum(1 + generator.geometric(2 / options.events, options.users), options.events)
    histories = [[f"item{n:07}" for n in generator.integers(0, options.items, length)] for length in lengths]
    names = [f"task{number}" for number in range(TASKS)]
    server: Server | None = None
    batches: MicroBatches | None = None
    for line in sys.stdin:
        question = json.loads(line)
        told: dict[str, Any] = {}
        if server is None or batches is None:
            told, server = _load(options, folders, names)
            batches = MicroBatches(server.run, limits=Limits(queued=100_000))
        load = _Load(server, batches, histories, names)
        if question["measure"] == "throughput":
            load.throughput("all tasks", clients=options.clients, seconds=1.0)  # warm
            told["throughput"] = {
                kind: load.throughput(kind, clients=options.clients, seconds=options.seconds) for kind in REQUESTS
            }
        else:
            told["latency"] = {
                kind: load.latency(kind, rate=question["rates"][kind], seconds=options.seconds) for kind in REQUESTS
            }
        print(json.dumps(told), flush=True)
    if batches is not None:
        batches.stop()


def _load(options: argparse.Namespace, folders: list[Path], names: list[str]) -> tuple[dict[str, Any], Server]:
    """The system in memory, and what that took: for full models without the pretrained encoder that a server holds."""
    before, began = _resident(), time.perf_counter()
    models = [load_task(folder).model for folder in folders] if options.child == "full" else []
    server = None if models else _server(options, folders, names)
    memory, seconds = _resident() - before, time.perf_counter() - began
    models.clear()
    files = sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors"))
    told = {"memory": memory, "load_seconds": seconds, "files": files}
    return told, server or _server(options, folders, names)


def _server(options: argparse.Namespace, folders: list[Path], names: list[str]) -> Server:
    server = Server(options.runs / "encoder", device="cpu")
    for name, folder in zip(names, folders, strict=True):
        server.add(name, folder)
    return server


def _resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024


class _Load:
    """Requests of both kinds to one system."""

    def __init__(self, server: Server, batches: MicroBatches, histories: list[list[str]], names: list[str]) -> None:
        self.server, self.batches, self.histories, self.names = server, batches, histories, names

    def request(self, kind: str, draw: random.Random) -> Any:
        tasks = self.names if kind == "all tasks" else [draw.choice(self.names)]
        return self.batches.submit(self.server.job(Predict([draw.choice(self.histories)], tasks)))

    def throughput(self, kind: str, *, clients: int, seconds: float) -> float:
        """Requests a second, of clients that ask again as soon as they are answered."""
        counts = [0] * clients
        until = time.perf_counter() + seconds

        def ask(number: int) -> None:
            draw = random.Random(number)
            while time.perf_counter() < until:
                self.request(kind, draw).result()
                counts[number] += 1

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - began)

    def latency(self, kind: str, *, rate: float, seconds: float) -> dict[str, float]:
        """Milliseconds from when a request was due to its answer, at so many requests a second."""
        draw, taken, waiting = random.Random(0), [], []
        due = time.perf_counter()
        until = due + seconds
        while due < until:
            due += draw.expovariate(rate)
            if (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead)
            answer = self.request(kind, draw)
            answer.add_done_callback(lambda _, due=due: taken.append(time.perf_counter() - due))
            waiting.append(answer)
        for answer in waiting:
            answer.result()
        p50, p99 = np.percentile(np.array(taken) * 1000, [50, 99])
        return {"requests": len(waiting), "p50_ms": float(p50), "p99_ms": float(p99)}


def _table(told: dict[str, Any]) -> Table:
    rates = told["setting"]["rates"]
    table = Table(title=f"{TASKS} tasks, {told['setting']['items']:,} items, D = {told['setting']['channels']}")
    table.add_column("system")
    for name in ("memory MiB", "files MiB", "load s"):
        table.add_column(name, justify="right")
    for kind in REQUESTS:
        table.add_column(f"{kind}: requests/s", justify="right")
        table.add_column(f"p50 / p99 ms at {rates[kind]:,.0f}/s", justify="right")
    for system, own in told["systems"].items():
        cells = [f"{own['memory'] / 2**20:,.1f}", f"{own['files'] / 2**20:,.1f}", f"{own['load_seconds']:.1f}"]
        for kind in REQUESTS:
            latency = own["latency"][kind]
            cells += [f"{own['throughput'][kind]:,.0f}", f"{latency['p50_ms']:.1f} / {latency['p99_ms']:.1f}"]
        table.add_row(system, *cells)
    return table


if __name__ == "__main__":
    main()
