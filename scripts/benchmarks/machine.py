"""The machine: what it is, and how fast it multiplies and copies, by which everything else is judged."""

import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import Conditions
from benchmarks.stopwatch import seconds_of
from benchmarks.tables import Table

SIDES = (2048, 4096)
COPIED = 2**28  # bytes


@dataclass
class Machine:
    """The best matrix rate of all looks so far, and the looks themselves."""

    conditions: Conditions
    looks: list[dict[str, float]] = field(default_factory=list)

    def look(self, when: str) -> None:
        """Measures square products and a copy now."""
        sides = (256,) if self.conditions.quick else SIDES
        rates = {f"gemm_{side}": gemm_rate(side, self.conditions) for side in sides}
        copied = 2**22 if self.conditions.quick else COPIED
        self.looks.append({"when": when, **rates, "copy": copy_rate(copied, self.conditions)})  # type: ignore[dict-item]

    @property
    def gemm(self) -> float:
        """Floating-point operations a second of the best square product."""
        return max(value for look in self.looks for key, value in look.items() if key.startswith("gemm"))

    def shares(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows, each with `share`: its `gflops` as a share of the rate."""
        for row in rows:
            row["share"] = 1e9 * row["gflops"] / self.gemm
        return rows

    def table(self) -> Table:
        """The looks; they differ by what else the machine did."""
        sides = [key for key in self.looks[0] if key.startswith("gemm")]
        columns = {"when": ("measured", ""), **{key: (f"{key[5:]}³ GF/s", ",.0f") for key in sides}}
        columns["copy"] = ("copy GB/s", ",.1f")
        rows = [{k: v if k == "when" else v / 1e9 for k, v in look.items()} for look in self.looks]  # type: ignore[operator]
        return Table(
            "The machine's own rates",
            columns,
            rows,
            [
                f"Square {self.conditions.precision} products; the best, {self.gemm / 1e9:,.0f} GF/s, is the rate of "
                "which the tables give shares. A copy counts bytes read and written."
            ],
        )


def gemm_rate(side: int, conditions: Conditions) -> float:
    """The best of a few square products of that side, in operations a second."""
    dtype = torch.float32 if conditions.precision == "fp32" else torch.bfloat16
    left, right = (torch.rand(side, side, device=conditions.device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=out)

    multiply()
    return 2 * side**3 / min(seconds_of(multiply, conditions) for _ in range(3))


def copy_rate(size: int, conditions: Conditions) -> float:
    """Bytes read and written a second by the best of a few copies of `size` bytes."""
    source = torch.ones(size // 4, device=conditions.device)
    target = torch.zeros_like(source)
    return 2 * size / min(seconds_of(lambda: target.copy_(source), conditions) for _ in range(3))


def facts(conditions: Conditions) -> dict[str, Any]:
    """What was measured on, and with what."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_bytes": _memory(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "device": conditions.device,
        "precision": conditions.precision,
        "clock": conditions.clock,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }
    if conditions.device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["float32_matmul_precision"] = torch.get_float32_matmul_precision()
    return found


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), flags=re.M)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
