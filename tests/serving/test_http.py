"""The server over real HTTP: answers, refusals in one shape, tasks that come and go, stopping."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from peterrec.serving.limits import Limits
from peterrec.serving.running import address, http_app, listen, uvicorn_server
from peterrec.serving.server import Server

LIMITS = Limits(body_bytes=40_000, histories=20, events=400, k=50, answers=500, queued=3, timeout=5.0)


class Client:
    def __init__(self, url):
        self.url = url

    def __call__(self, method, path, body=None, *, raw=None):
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}{path}", data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=20) as answer:
                text = answer.read()
                is_json = answer.headers.get_content_type() == "application/json"
                return answer.status, json.loads(text) if is_json and text else text.decode()
        except HTTPError as problem:
            told = json.loads(problem.read())
            assert list(told) == ["error"], told
            assert "Traceback" not in told["error"]
            return problem.code, told["error"]


@pytest.fixture(scope="module")
def python_server(encoder_folder, runs):
    server = Server(encoder_folder, device="cpu")
    for name in ("head", "serial", "serial_too", "cold"):
        server.add(name, runs / name)
    return server


@pytest.fixture(scope="module")
def client(python_server, runs):
    listening = listen("127.0.0.1", 0)
    running = uvicorn_server(http_app(python_server, limits=LIMITS, root=runs), limits=LIMITS)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield Client(address(listening))
    running.should_exit = True
    thread.join(20)
    listening.close()
    assert not thread.is_alive()


def test_answers_are_those_of_the_python_server(client, python_server, histories):
    status, found = client("POST", "/v1/predict", {"histories": histories, "tasks": ["head", "serial"]})
    assert status == 200
    wanted = python_server.predict(histories, tasks=["head", "serial"])
    for name, classes in wanted.items():
        np.testing.assert_allclose(found["tasks"][name]["probabilities"], classes.probabilities, atol=1e-6)
        assert found["tasks"][name]["predicted"] == classes.predicted
        assert found["tasks"][name]["read"]["unknown"] == classes.read.unknown.tolist()
    status, found = client("POST", "/v1/encode", {"histories": histories})
    np.testing.assert_allclose(found["vectors"], python_server.encode(histories).vectors, atol=1e-6)
    for more in ({}, {"task": "cold"}):
        status, found = client("POST", "/v1/recommend", {"histories": histories, "k": 4, **more})
        assert (status, found["items"]) == (200, python_server.recommend(histories, k=4, **more).items)
        assert found["reasons"].count("popularity") == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("predict", {"histories": [["a"]], "tasks": ["hed"]}, 404, "Did you mean 'head'"),
        ("predict", {"histories": [["a"]], "tasks": ["cold"]}, 400, "ask for recommend"),
        ("predict", {"histories": [], "tasks": ["head"]}, 422, "histories"),
        ("predict", {"histories": [[1]], "tasks": ["head"]}, 422, "histories.0.0"),
        ("predict", {"histories": [["a"]], "tasks": ["head"], "more": 1}, 422, "more"),
        ("predict", {"histories": [["a"]] * 21, "tasks": ["head"]}, 413, "21 users"),
        ("predict", {"histories": [["a"] * 401], "tasks": ["head"]}, 413, "401 item ids"),
        ("predict", {"histories": [["x" * 41_000]], "tasks": ["head"]}, 413, "40,000 bytes"),
        ("recommend", {"histories": [["a"]], "k": 51}, 413, "k is 51"),
        ("recommend", {"histories": [["a"]] * 20, "k": 26}, 413, "520 values"),
        ("recommend", {"histories": [["a"]], "k": 0}, 422, "k"),
        ("recommend", {"histories": [["a"]], "seen": [["a"] * 400]}, 413, "401 item ids"),
        ("recommend", {"histories": [["a"]], "task": "head"}, 400, "ask for predict"),
        ("impressions", {"task": "head", "rows": [{}]}, 400, "ask for predict"),
        ("nothing", {}, 404, "Not Found"),
    ],
)
def test_what_is_wrong_is_said_in_one_shape(client, path, body, status, text):
    found = client("POST", f"/v1/{path}", body)
    assert found[0] == status
    assert text in found[1]


def test_bodies_that_are_no_json(client):
    assert client("POST", "/v1/predict", raw=b"{")[0] == 422
    assert client("POST", "/v1/predict", raw=b"\xff\xfe")[0] in (400, 422)
    assert client("GET", "/v1/predict")[0] == 405


def test_a_body_that_hides_its_size_is_cut_off(client):
    host, port = client.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = ["POST /v1/predict HTTP/1.1", "Host: x", "Content-Type: application/json", "Transfer-Encoding: chunked"]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        for _ in range(5):
            connection.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
        assert b" 413 " in connection.recv(4096).split(b"\r\n")[0]


def test_tasks_come_and_go_over_http(client, histories):
    assert [task["name"] for task in client("GET", "/v1/tasks")[1]["tasks"]] == ["cold", "head", "serial", "serial_too"]
    status, found = client("PUT", "/v1/tasks/more", {"folder": "lora"})
    assert (status, found["name"], found["shares"]) == (201, "more", "weights")
    assert client("POST", "/v1/predict", {"histories": histories, "tasks": ["more"]})[0] == 200
    assert client("PUT", "/v1/tasks/more", {"folder": "lora"})[0] == 400
    assert client("DELETE", "/v1/tasks/more")[0] == 204
    assert client("DELETE", "/v1/tasks/more")[0] == 404


@pytest.mark.parametrize(
    "folder",
    ["../served", "..", ".", "/etc", "head/../../x", "a\\..\\b", "C:\\x", "absent", "link", "he\0ad", "x" * 5000],
)
def test_no_path_leads_out_of_the_root(client, runs, encoder_folder, folder):
    link = runs / "link"
    if not link.exists():
        link.symlink_to(encoder_folder)
    status, told = client("PUT", "/v1/tasks/sly", {"folder": folder})
    assert status == 400
    assert "must name a run" in told
    assert str(runs) not in told


def test_a_run_that_is_refused_names_no_place(client, runs):
    (runs / "empty").mkdir(exist_ok=True)
    status, told = client("PUT", "/v1/tasks/empty", {"folder": "empty"})
    assert status == 400
    assert str(runs) not in told


def test_figures_and_health(client, histories):
    assert client("GET", "/health/live") == (200, {"status": "live"})
    assert client("GET", "/health/ready") == (200, {"status": "ready"})

    def figures():
        lines = client("GET", "/metrics")[1].splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    before = figures()
    client("POST", "/v1/predict", {"histories": histories, "tasks": ["head", "serial"]})
    client("POST", "/v1/predict", {"histories": histories, "tasks": ["hed"]})
    after = figures()

    def more(name):
        return after.get(name, 0) - before.get(name, 0)

    assert more('peterrec_requests_total{endpoint="predict",status="200"}') == 1
    assert more('peterrec_errors_total{endpoint="predict"}') == 1
    assert more('peterrec_rows_total{endpoint="predict"}') == 2 * len(histories)
    assert more('peterrec_request_seconds_count{endpoint="predict"}') == 2
    assert more("peterrec_batch_requests_count") == 1
    assert more("peterrec_batch_passes_sum") == 2
    assert (
        after['peterrec_request_seconds_bucket{endpoint="predict",le="+Inf"}']
        == after['peterrec_request_seconds_count{endpoint="predict"}']
    )
    assert (after["peterrec_queue_depth"], after["peterrec_tasks"]) == (0, 4)


def test_the_description_has_examples_that_work(client, python_server):
    schema = client("GET", "/openapi.json")[1]
    assert {"/v1/predict", "/v1/recommend", "/v1/encode", "/v1/impressions", "/v1/tasks", "/metrics"} <= set(
        schema["paths"]
    )
    bodies = schema["components"]["schemas"]
    for path, body in (("recommend", "RecommendBody"), ("encode", "EncodeBody")):
        assert client("POST", f"/v1/{path}", bodies[body]["examples"][0])[0] == 200
    example = bodies["PredictBody"]["examples"][0] | {"tasks": ["head"]}
    assert client("POST", "/v1/predict", example)[0] == 200
    assert client("GET", "/docs")[0] == 200


def test_changes_are_off_unless_allowed(python_server, runs):
    paths = http_app(python_server, limits=LIMITS).openapi()["paths"]
    assert "/v1/tasks/{name}" not in paths


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_after_what_is_under_way(number, encoder_folder, runs, histories):
    command = [sys.executable, "-m", "peterrec", "serve", "-e", str(encoder_folder), "--port", "0", "--device", "cpu"]
    command += ["--task", f"gender={runs / 'head'}", "--task", f"age={runs / 'serial'}", "--wait", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            printed = []
            for line in process.stdout:
                printed.append(line)
                if (
                    found := re.search(r" on (http://127\.0\.0\.1:\d+)", " ".join(printed).replace("\n", " "))
                ) is not None:
                    break
            client, answers = Client(found[1]), []
            for _ in range(200):  # the socket listens before the first request is taken
                if client("GET", "/health/ready")[0] == 200:
                    break
            body = {"histories": histories, "tasks": ["gender", "age"]}
            asking = threading.Thread(target=lambda: answers.append(client("POST", "/v1/predict", body)))
            asking.start()  # waits a second for others to join it
            until = time.monotonic() + 10
            while time.monotonic() < until and "queue_depth 1" not in client("GET", "/metrics")[1]:
                if 'endpoint="predict"' in client("GET", "/metrics")[1]:
                    break
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
            asking.join(20)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert err == ""
    assert "Stopped" in out
    assert answers[0][0] == 200
    assert set(answers[0][1]["tasks"]) == {"gender", "age"}
