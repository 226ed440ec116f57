"""Figures of a running server, in the text format of Prometheus."""

import threading
from bisect import bisect_left
from collections import Counter

LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
Labels = tuple[tuple[str, str], ...]


class Histogram:
    """Counts of values up to each of `bounds`, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, labels: Labels = ()) -> list[str]:
        """The lines of one histogram; counts accumulate."""
        found, so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            found.append(_line(f"{name}_bucket", (*labels, ("le", bound)), so_far))
        return [*found, _line(f"{name}_sum", labels, self.total), _line(f"{name}_count", labels, so_far)]


class Metrics:
    """Requests and batches, counted from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._rows: Counter[str] = Counter()
        self._latency: dict[str, Histogram] = {}
        self._batches = {name: Histogram(SIZES) for name in ("requests", "rows", "passes")}
        self._busy = 0.0

    def request(self, endpoint: str, *, status: int, seconds: float) -> None:
        """A request was answered."""
        with self._lock:
            self._requests[endpoint, status] += 1
            self._latency.setdefault(endpoint, Histogram(LATENCY)).add(seconds)

    def rows(self, endpoint: str, count: int) -> None:
        """A request asked for so many rows: users times tasks, or impressions."""
        with self._lock:
            self._rows[endpoint] += count

    def batch(self, *, requests: int, rows: int, passes: int, seconds: float) -> None:
        """So many requests were answered together, in so many passes over encoders of so many rows in all."""
        with self._lock:
            for name, value in (("requests", requests), ("rows", rows), ("passes", passes)):
                self._batches[name].add(value)
            self._busy += seconds

    def text(self, *, queued: int, tasks: int) -> str:
        """All figures; `queued` requests wait, and `tasks` are served, now."""
        with self._lock:
            lines = [*_head("requests_total", "counter", "Requests by endpoint and status.")]
            for (endpoint, status), count in sorted(self._requests.items()):
                lines.append(_line("requests_total", (("endpoint", endpoint), ("status", str(status))), count))
            lines += _head("errors_total", "counter", "Requests that ended with a status of 400 or above.")
            errors: Counter[str] = Counter()
            for (endpoint, status), count in self._requests.items():
                errors[endpoint] += count * (status >= 400)
            lines += [_line("errors_total", (("endpoint", name),), errors[name]) for name in sorted(errors)]
            lines += _head("rows_total", "counter", "Rows asked for: users times tasks, or impressions.")
            lines += [_line("rows_total", (("endpoint", name),), self._rows[name]) for name in sorted(self._rows)]
            lines += _head("request_seconds", "histogram", "Time from a request's first byte to its answer.")
            for name in sorted(self._latency):
                lines += self._latency[name].lines("request_seconds", (("endpoint", name),))
            what = {
                "requests": "Requests that were answered together.",
                "rows": "Rows that a batch had encoded.",
                "passes": "Passes over encoders that a batch took.",
            }
            for name, histogram in self._batches.items():
                lines += [*_head(f"batch_{name}", "histogram", what[name]), *histogram.lines(f"batch_{name}")]
            lines += [*_head("busy_seconds_total", "counter", "Time spent answering batches.")]
            lines += [_line("busy_seconds_total", (), self._busy)]
        lines += [*_head("queue_depth", "gauge", "Requests that wait."), _line("queue_depth", (), queued)]
        lines += [*_head("tasks", "gauge", "Tasks that are served."), _line("tasks", (), tasks)]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP peterrec_{name} {text}", f"# TYPE peterrec_{name} {kind}"]


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    shown = str(int(value)) if value == int(value) else repr(float(value))
    return f"peterrec_{name}{{{inside}}} {shown}" if inside else f"peterrec_{name} {shown}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
