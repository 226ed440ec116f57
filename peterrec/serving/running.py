"""Serving over HTTP until a signal asks to stop."""

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from peterrec.errors import SettingsError
from peterrec.serving.limits import Limits
from peterrec.serving.server import Server

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

MISSING = (
    'Serving over HTTP needs FastAPI and uvicorn, which are not installed: pip install "peterrec[serve]". '
    "(In Python, peterrec.Server needs neither.)"
)


def http_app(server: Server, *, limits: Limits, root: Path | None = None) -> "FastAPI":
    """The application for `server`, as `build_app` makes it. Raises SettingsError where FastAPI is not installed."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as problem:
        raise SettingsError(MISSING) from problem
    from importlib.metadata import version

    from peterrec.serving.app import build_app

    return build_app(server, limits=limits, root=root, version=version("peterrec"))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes one that is free. Raises SettingsError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise SettingsError(
            f"--host {host} --port {port}: {reason}. Choose another port, or 0 for a free one."
        ) from None


def address(listening: socket.socket) -> str:
    """Where a socket listens, as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    app: "FastAPI", listening: socket.socket, *, limits: Limits, log_requests: bool = False, ready: Callable[[], object]
) -> None:
    """Answers requests until SIGTERM or SIGINT; then no more are taken, and those under way are answered.

    `ready` is called before the first one is taken.
    """
    stopping = uvicorn_server(app, limits=limits, log_requests=log_requests)

    def stop(number: int, frame: object) -> None:
        stopping.should_exit = True

    # uvicorn raises a signal again once it has stopped; here stopping is what was asked for
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ready()
        stopping.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listening.close()


def uvicorn_server(app: "FastAPI", *, limits: Limits, log_requests: bool = False) -> "uvicorn.Server":
    """What runs the application; it stops once its `should_exit` is set, after the requests under way."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="info" if log_requests else "warning",
        access_log=log_requests,
        timeout_graceful_shutdown=int(limits.timeout) + 1,
        server_header=False,
    )
    return uvicorn.Server(config)
