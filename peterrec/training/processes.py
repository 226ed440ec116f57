"""Several processes that train together: the one door to torch.distributed for data parallelism.

The main process leads and the others follow: it tells them what to train and from which checkpoint, it alone
validates, writes and speaks. What it says goes over sockets of its own as JSON, never as pickles; when a process ends,
however that happens, its sockets close, and whoever waits for it learns so at once.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from peterrec.encoders.table_shard import TableShard
from peterrec.errors import PeterrecError, ResourceError
from peterrec.training.gradient_sum import NO_GRADIENT, kind_of, sum_dense, sum_rows
from peterrec.training.launcher import launched

PATIENCE = timedelta(days=1)  # with what the main process does alone; a process that has ended is noticed at once


class LostProcessError(ResourceError):
    """Another process of the launch has ended or cannot be reached."""


class DismissedError(PeterrecError):
    """The main process has ended the work that this one was waiting for; it says why."""


class Processes:
    """This process, `number` of `count`, and its ties to the others; number 0 is the main one.

    Alone (`count` 1) everything is at once and changes nothing. Whatever the others are needed for raises
    `LostProcessError` where one of them has ended. All processes call the same methods in the same order.
    """

    def __init__(self, group: "dist.ProcessGroup | None" = None) -> None:
        self._group = group
        self._announced: dict[str, Any] | None = None
        self.number = 0 if group is None else dist.get_rank()
        self.count = 1 if group is None else dist.get_world_size()
        self.begun = False  # a training has: what it raises for settings or interrupts, it raises in all processes

    @property
    def main(self) -> bool:
        """Whether this process leads."""
        return self.number == 0

    def share(self, value: Any) -> Any:
        """The main process's `value` (JSON, NaN included) in all processes."""
        if self.count == 1:
            return value
        text = json.dumps(value).encode() if self.main else b""
        length = torch.tensor([len(text)])
        with self._contact() as group:
            dist.broadcast(length, 0, group=group)
            data = (
                torch.frombuffer(bytearray(text), dtype=torch.uint8)
                if self.main
                else torch.empty(int(length), dtype=torch.uint8)
            )
            dist.broadcast(data, 0, group=group)
        return value if self.main else json.loads(bytes(data.numpy()))

    def share_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The main process's tensors, of any device and type, in all processes; elsewhere they are new, on the CPU."""
        if self.count == 1:
            return dict(tensors)
        kinds = self.share({name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()})
        found = {}
        for name, (dtype, shape) in kinds.items():
            tensor = tensors[name] if self.main else torch.empty(shape, dtype=getattr(torch, dtype))
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            if data.numel():
                with self._contact() as group:
                    dist.broadcast(data, 0, group=group)
            found[name] = tensor
        return found

    def meet(self, numbers: Sequence[int] = ()) -> NDArray[np.int64]:
        """What each process brings, `(count, len(numbers))`; nobody goes on before all have come."""
        own = torch.tensor([0, *numbers], dtype=torch.int64)
        if self.count == 1:
            return own.numpy()[None, 1:]
        found = [torch.empty_like(own) for _ in range(self.count)]
        with self._contact() as group:
            dist.all_gather(found, own, group=group)
        return torch.stack(found).numpy()[:, 1:]

    def any(self, value: bool) -> bool:
        """Whether it holds in any process."""
        return bool(self.meet([value]).any()) if self.count > 1 else value

    def sum_gradients(self, parameters: Sequence[Tensor], *, loss: Tensor, stop: bool) -> bool:
        """Sums the gradients of `parameters` and `loss` `(...)` over all processes, in place; whether any says `stop`.

        A process without a gradient adds zeros; a parameter without one in all processes keeps none. Row-sparse
        gradients stay so, the rows of one process after those of another. Sharded tables are left out: their gradients
        are sums already.
        """
        if self.count == 1:
            return stop
        own = [p for p in parameters if not isinstance(p, TableShard)]
        kinds = self.meet([stop, *(kind_of(p) for p in own)])
        with self._contact() as group:
            # the sockets serve the CPU, the default group (nccl) the devices
            chosen = group if loss.device.type == "cpu" else None
            used = [(p, kind) for p, kind in zip(own, kinds[:, 1:].T, strict=True) if (kind != NO_GRADIENT).any()]
            sum_dense([p for p, kind in used if (kind < 0).all()], loss=loss, group=chosen)
            for parameter, kind in used:
                if (kind >= 0).any():
                    sum_rows(parameter, counts=np.maximum(kind, 0).tolist(), group=chosen)
        return bool(kinds[:, 0].any())

    @contextmanager
    def job(self, stage: str, facts: Mapping[str, Any]) -> Iterator[None]:
        """The main process's work on trainings that the others, who wait in `jobs`, make together with it."""
        self._say("job", stage=stage, facts=dict(facts))
        try:
            yield
        finally:
            self._part("over")

    def jobs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the main process wants of the others, as stage and facts, until it has ended its command."""
        while (said := self.share(None))["say"] != "end":
            if said["say"] == "job":
                yield said["stage"], said["facts"]

    def training(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """Begins a training in all processes; what the main one says of it. `DismissedError` if there is none."""
        if self.main:
            self._say("train", header=dict(header))
            self.begun = True
            return dict(header)
        found = self.next_training()
        if found is None:
            raise DismissedError("The main process of this launch has ended its work; it says why.")
        self._announced, self.begun = None, True
        return found

    def next_training(self) -> dict[str, Any] | None:
        """What the main process says of the training that it begins, as long as a job has one more."""
        if self._announced is None:
            said = self.share(None)
            self._announced = said["header"] if said["say"] == "train" else None
        return self._announced

    def end(self) -> None:
        """The main process's command has ended, and all may go."""
        self._part("end")
        self.leave()

    def outstay(self) -> None:
        """Wait until the main process has ended: a launcher takes all down with the first one that fails."""
        with suppress(LostProcessError):
            for _ in self.jobs():
                pass
        self.leave()

    def leave(self) -> None:
        """Closes the sockets, so that nobody waits for this process; there is no way back."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _part(self, word: str) -> None:
        """A last word, which nobody may be there to hear."""
        if self._group is not None:
            with suppress(LostProcessError):
                self._say(word)

    def _say(self, what: str, **more: Any) -> None:
        self.share({"say": what, **more})

    @contextmanager
    def _contact(self) -> Iterator["dist.ProcessGroup"]:
        if self._group is None:
            raise LostProcessError("The processes of this launch have parted; launch the command again.")
        try:
            yield self._group
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # this process's own affair
        except RuntimeError as problem:  # what gloo and nccl raise, some of it by this name alone
            cause = (str(problem).strip() or type(problem).__name__).splitlines()[0]
            raise LostProcessError(
                f"Process {self.number} of {self.count} lost another one of this launch, which has ended or cannot be "
                f"reached ({cause}); see what it said, and run the same command to go on from the last checkpoint."
            ) from problem


_joined: Processes | None = None


def join() -> Processes:
    """The processes that this one was launched with: itself alone, or all of them once all have come.

    A process group that the caller has opened is used as it is. Raises `LostProcessError` if the others do not come.
    """
    global _joined
    if _joined is not None:
        return _joined
    if not dist.is_available() or not (dist.is_initialized() or launched()):
        return Processes()
    try:
        if not dist.is_initialized():
            devices = torch.cuda.is_available() and dist.is_nccl_available()
            dist.init_process_group(backend="cpu:gloo,cuda:nccl" if devices else "gloo")
        if dist.get_world_size() == 1:
            return Processes()
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        assert isinstance(group, dist.ProcessGroup)
        _joined = Processes(group)
    except RuntimeError as problem:
        raise LostProcessError(f"The processes of this launch did not find each other: {problem}") from problem
    return _joined
