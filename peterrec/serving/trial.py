"""One request of each kind over HTTP, to see that a server works."""

import json
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.errors import RefusedError
from peterrec.serving.limits import Limits
from peterrec.serving.running import address, listen, uvicorn_server
from peterrec.serving.server import Server

if TYPE_CHECKING:
    from fastapi import FastAPI

EVENTS = 5


def answers(app: "FastAPI", server: Server, *, limits: Limits) -> Iterator[tuple[str, Any]]:
    """What is asked, and the answer, for a history of the most frequent items; impressions need fields, and are left
    out. Raises RefusedError where an answer is an error.
    """
    vocabulary = server.shared.vocabulary
    history = vocabulary.ids(range(FIRST_ITEM, min(FIRST_ITEM + EVENTS, len(vocabulary))))
    notes = server.tasks
    asked: list[tuple[str, str, dict[str, Any]]] = []
    classes = [note.name for note in notes if note.kind == "classification"]
    if classes:
        asked.append(("predict", "predict", {"tasks": classes}))
    if server.recommends:
        asked.append(("recommend", "recommend", {"k": 3}))
    asked += [
        (f"recommend {note.name}", "recommend", {"task": note.name, "k": 3}) for note in notes if note.kind == "ranking"
    ]
    listening = listen("127.0.0.1", 0)
    running = uvicorn_server(app, limits=limits)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not running.started and thread.is_alive():
            time.sleep(0.01)
        for what, path, more in asked:
            body = json.dumps({"histories": [history], **more}).encode()
            request = Request(f"{address(listening)}/v1/{path}", body, {"Content-Type": "application/json"})
            try:
                with urlopen(request, timeout=limits.timeout + 5) as answer:
                    yield what, json.load(answer)
            except HTTPError as problem:
                raise RefusedError(f"{what}: {json.load(problem)['error']}") from None
    finally:
        running.should_exit = True
        thread.join()
        listening.close()
