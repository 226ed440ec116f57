"""The HTTP face of a server: paths, status codes, health and metrics."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException

from peterrec.errors import PeterrecError
from peterrec.serving import messages, requests
from peterrec.serving.bounded_body import BoundedBody
from peterrec.serving.jobs import Job
from peterrec.serving.limits import Limits
from peterrec.serving.messages import ErrorAnswer
from peterrec.serving.metrics import Metrics
from peterrec.serving.micro_batches import MicroBatches, QueueFullError, StoppedError
from peterrec.serving.server import Ran, Server, TaskNote, UnknownTaskError
from peterrec.serving.task_root import TaskRoot

ABOUT = """Predictions for many tasks from one user encoder. Histories are lists of item ids as in the log that the
encoder was trained on, oldest first; ids that it does not know are left out and counted. Nothing that is sent is
kept."""
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": text}
    for code, text in {
        400: "the request cannot be answered as it is",
        404: "no such task",
        413: "too large",
        422: "not the JSON that is asked for",
        503: "too many requests wait, or the server is stopping",
        504: "it took too long",
    }.items()
}


def build_app(server: Server, *, limits: Limits, root: Path | None = None, version: str = "") -> FastAPI:
    """The application that answers for `server`; tasks may be added and removed from folders under `root`, if given.

    Its queue runs from the start of its lifespan to the end, when what waits is answered first.
    """
    figures = Metrics()
    folders = None if root is None else TaskRoot(root, encoder=server.shared.folder)

    def told(jobs: Sequence[Job], ran: Ran, seconds: float) -> None:
        figures.batch(requests=len(jobs), rows=ran.rows, passes=ran.passes, seconds=seconds)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        app.state.batches = MicroBatches(server.run, limits=limits, told=told)
        yield
        await run_in_threadpool(app.state.batches.stop)

    app = FastAPI(title="peterrec", version=version, description=ABOUT, lifespan=lifespan)
    app.add_middleware(BoundedBody, most=limits.body_bytes)  # type: ignore[arg-type]  # ours takes plain dicts

    async def answer(endpoint: str, request: requests.Request) -> Any:
        """The answer from the queue; the status codes are those of `_failed`."""
        job = await run_in_threadpool(server.job, request)
        figures.rows(endpoint, job.rows)
        future = asyncio.wrap_future(app.state.batches.submit(job))
        try:
            return await asyncio.wait_for(future, limits.timeout)
        except TimeoutError:
            raise HTTPException(504, f"No answer within {limits.timeout:g} seconds.") from None

    @app.post("/v1/predict", responses=ERRORS, tags=["answers"])
    async def predict(body: messages.PredictBody) -> messages.PredictAnswer:
        """Class probabilities of users, by one task or several."""
        _check(limits, histories=body.histories, answers=len(body.histories) * len(body.tasks))
        found = await answer("predict", requests.Predict(body.histories, body.tasks))
        return messages.PredictAnswer(
            tasks={name: messages.PredictedClasses.of(classes) for name, classes in found.items()}
        )

    @app.post("/v1/recommend", responses=ERRORS, tags=["answers"])
    async def recommend(body: messages.RecommendBody) -> messages.RecommendAnswer:
        """The best items for users, by a task that ranks items or by the encoder itself."""
        lists = [*body.histories, *(body.seen or ()), body.allow or [], body.block or []]
        _check(limits, histories=body.histories, ids=lists, answers=len(body.histories) * body.k)
        if body.k > limits.k:
            raise HTTPException(413, f"k is {body.k:,}; at most {limits.k:,} are given.")
        asked = requests.Recommend(
            body.histories,
            task=body.task,
            k=body.k,
            seen=body.seen,
            remove_seen=body.remove_seen,
            allow=body.allow,
            block=body.block,
        )
        return messages.RecommendAnswer.of(await answer("recommend", asked))

    @app.post("/v1/encode", responses=ERRORS, tags=["answers"])
    async def encode(body: messages.EncodeBody) -> messages.EncodeAnswer:
        """The encoder's own vectors of users."""
        _check(limits, histories=body.histories, answers=len(body.histories))
        return messages.EncodeAnswer.of(await answer("encode", requests.Encode(body.histories)))

    @app.post("/v1/impressions", responses=ERRORS, tags=["answers"])
    async def impressions(body: messages.ImpressionsBody) -> messages.ImpressionsAnswer:
        """What follows impressions, such as clicks and conversions."""
        _check(limits, histories=body.histories, answers=len(body.rows))
        _check(limits, histories=body.rows, ids=(), answers=0)
        rows = [
            requests.Impression(fields=row.fields, item=row.item, domain=row.domain, history=row.history)
            for row in body.rows
        ]
        asked = requests.PredictImpressions(body.task, rows, body.histories)
        return messages.ImpressionsAnswer.of(await answer("impressions", asked))

    @app.get("/v1/tasks", tags=["tasks"])
    def tasks() -> messages.TasksAnswer:
        """The tasks that are served."""
        return messages.TasksAnswer(
            tasks=[_task(note) for note in server.tasks],
            recommends=server.recommends,
            encoder_bytes=server.shared.bytes,
        )

    if folders is not None:

        @app.put("/v1/tasks/{name}", responses=ERRORS, tags=["tasks"], status_code=201)
        def add(name: str, body: messages.AddBody) -> messages.TaskAnswer:
            """Serves another run from the folder that the server allows."""
            try:
                return _task(server.add(name, folders.folder(body.folder)))
            except PeterrecError as problem:
                raise HTTPException(400, folders.hidden(str(problem))) from None

        @app.delete("/v1/tasks/{name}", responses=ERRORS, tags=["tasks"], status_code=204)
        def remove(name: str) -> None:
            """Serves a task no longer; requests under way end on it."""
            server.remove(name)

    @app.get("/health/live", tags=["operation"])
    async def live() -> messages.Health:
        """Whether the process answers."""
        return messages.Health(status="live")

    @app.get("/health/ready", tags=["operation"], responses={503: ERRORS[503]})
    async def ready() -> messages.Health:
        """Whether requests are taken."""
        if not app.state.batches.alive:
            raise HTTPException(503, "The server is stopping.")
        return messages.Health(status="ready")

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Figures in the text format of Prometheus."""
        text = figures.text(queued=len(app.state.batches), tasks=len(server.tasks))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    @app.middleware("http")
    async def counted(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        began, status = time.perf_counter(), 500
        try:
            response = await call_next(request)
            status = response.status_code
            return response
        finally:
            path = request.url.path
            if path.startswith("/v1/"):
                endpoint = path.split("/")[2]
                known = endpoint in ("predict", "recommend", "encode", "impressions", "tasks")
                figures.request(endpoint if known else "other", status=status, seconds=time.perf_counter() - began)

    for kind in (PeterrecError, AnyHTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _failed)
    return app


def _check(limits: Limits, *, histories: Sequence[Any], ids: Sequence[Any] | None = None, answers: int) -> None:
    """Raises HTTPException 413 for more than `limits` allow."""
    events = sum(map(len, histories if ids is None else ids))
    for name, count, most in (
        ("users or rows", len(histories), limits.histories),
        ("item ids", events, limits.events),
        ("values in its answer", answers, limits.answers),
    ):
        if count > most:
            raise HTTPException(
                413, f"The request has {count:,} {name}; at most {most:,} are allowed. Send it in parts."
            )


def _task(note: TaskNote) -> messages.TaskAnswer:
    return messages.TaskAnswer.model_validate(
        {**vars(note), "outputs": [*note.outputs], "with_tasks": [*note.with_tasks]}
    )


async def _failed(request: Request, problem: Exception) -> JSONResponse:
    """Every failure in one shape, `{"error": text}`, and nothing of the program's insides."""
    if isinstance(problem, AnyHTTPException):
        return JSONResponse({"error": str(problem.detail)}, problem.status_code, headers=problem.headers)
    if isinstance(problem, RequestValidationError):
        return JSONResponse({"error": _told(problem)}, 422)
    if isinstance(problem, UnknownTaskError):
        return JSONResponse({"error": str(problem)}, 404)
    if isinstance(problem, QueueFullError | StoppedError):
        return JSONResponse({"error": str(problem)}, 503, headers={"Retry-After": "1"})
    if isinstance(problem, PeterrecError) and problem.exit_code in (2, 3):
        return JSONResponse({"error": str(problem)}, 400)
    return JSONResponse({"error": "The server has failed on this request; its log says why."}, 500)


def _told(problem: RequestValidationError) -> str:
    """The first things that are wrong with a body: where, and what; never its values."""
    lines = []
    for error in problem.errors()[:3]:
        place = ".".join(str(part) for part in error["loc"] if part != "body")
        lines.append(f"{place}: {error['msg']}" if place else str(error["msg"]))
    return "; ".join(lines)
