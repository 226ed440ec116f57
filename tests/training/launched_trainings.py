"""What two processes do together for test_processes.py, started by torchrun: `launched_trainings.py FOLDER`."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from peterrec.settings import load_settings
from peterrec.stages import finetune, pretrain
from peterrec.training.loop import InterruptedRun, TrainingResult, TrainingSettings, train
from peterrec.training.processes import join
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker

PRETRAINING = [
    "encoder.hidden_size=16",
    "encoder.kind=nextitnet",
    "encoder.dilations=[1,2]",
    "encoder.max_length=50",
    "encoder.dropout=0",
    "training.epochs=2",
    "training.positions=2000",
    "training.warmup=5",
    "training.device=cpu",
    "training.micro_batch=300",
]
FINETUNING = ["epochs=2", "device=cpu", "users=48", "warmup=3", "learning_rate=1e-2"]
SETTINGS = TrainingSettings(
    epochs=3,
    learning_rate=0.02,
    warmup=5,
    patience=0,
    checkpoint_every=3,
    device="cpu",
    seed=5,
    table_update="lazy_adam",
)


class Net(nn.Module):
    """A table with row-sparse gradients, dense parameters, one that is never used, one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(join().number)  # the main process's weights count
        self.items = nn.Embedding(20, 8, sparse=True)
        self.hidden = nn.Linear(8, 8)
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.out = nn.Linear(8, 1)
        with torch.no_grad():
            for name, p in self.named_parameters():
                start = torch.Generator().manual_seed(7) if name.startswith("frozen") else generator
                p.copy_(torch.randn(p.shape, generator=start) * 0.3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.out(torch.relu(self.frozen(self.hidden(self.items(rows).mean(1)))))[:, 0]


class Regression:
    """Users of four items; every step is cut into pieces of five, and the last one has a single user.

    `signal_at`: the step before which a process, the last one there is, gets SIGTERM.
    """

    metric = "fit"

    def __init__(self, *, signal_at: int | None = None) -> None:
        rng = np.random.default_rng(3)
        self.model = Net()
        self.rows = torch.from_numpy(rng.integers(1, 20, (160, 4)))
        self.y = torch.from_numpy(rng.normal(size=20)).float()[self.rows].sum(1)
        self.validations = self.made = 0
        self.signal_at = signal_at

    def steps(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng((1, epoch)).permutation(128)
        return [*np.array_split(order[1:], 6), order[:1]]

    def num_targets(self, step: np.ndarray) -> int:
        return len(step)

    def weight(self, step: np.ndarray) -> float:
        return len(step)

    def pieces(self, step: np.ndarray, *, part: int, parts: int) -> list[np.ndarray]:
        if self.made == self.signal_at and part == parts - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        self.made += 1
        own = step[part::parts]
        return [own[first : first + 5] for first in range(0, len(own), 5)]

    def loss(self, piece: np.ndarray, device: torch.device) -> tuple[Tensor, float]:
        return ((self.model(self.rows[piece]) - self.y[piece]) ** 2).mean(), len(piece)

    def validate(self) -> dict[str, float]:
        self.validations += 1
        return {"fit": -float(((self.model(self.rows[128:]) - self.y[128:]) ** 2).mean())}


def run(program: Regression, checkpoints: Path | None) -> TrainingResult:
    return train(program, SETTINGS, checkpoints=checkpoints, tracker=Tracker(), progress=Progress("silent"))


def digest(model: nn.Module) -> str:
    whole = b"".join(t.detach().numpy().tobytes() for _, t in sorted(model.state_dict().items()))
    return hashlib.sha256(whole).hexdigest()


def story(program: Regression, result: TrainingResult) -> dict:
    return {
        "digest": digest(program.model),
        "history": [[r["epoch"], r["step"], r["loss"], r["validation"]["fit"]] for r in result.history],
        "best_epoch": result.best_epoch,
        "validations": program.validations,
        "weights": {name: t.tolist() for name, t in program.model.state_dict().items()},
    }


def interrupted(program: Regression, checkpoints: Path) -> str:
    try:
        run(program, checkpoints)
    except InterruptedRun as problem:
        return str(problem)
    return "nothing came"


def stages(folder: Path, name: str) -> None:
    """Both stages, to `encoder-<name>` and `task-<name>`; fine-tuning starts from one encoder."""
    settings = load_settings(pretrain.PretrainSettings, overrides=PRETRAINING)
    pretrain.run(folder / "prepared", output=folder / f"encoder-{name}", settings=settings, progress="silent")
    finetune.run(
        folder / "gender.toml",
        encoder=folder / "encoder",
        output=folder / f"task-{name}",
        data=folder / "prepared",
        seeds=[0, 1],
        overrides=FINETUNING,
        progress="silent",
    )


def main(folder: Path) -> None:
    processes = join()
    assert dist.get_world_size() == processes.count == 2
    told: dict = {"number": processes.number}
    told["shared"] = processes.share({"from": processes.number, "nan": float("nan")})["from"]
    sent = {
        "half": torch.full((2, 3), processes.number + 0.5, dtype=torch.bfloat16),
        "count": torch.tensor(4),
        "no": torch.zeros(0, 3),
    }
    told["tensors"] = {k: [str(t.dtype), t.tolist()] for k, t in processes.share_tensors(sent).items()}
    told["met"] = processes.meet([processes.number, 7]).tolist()
    told["any"] = [processes.any(processes.number == 1), processes.any(False)]

    program = Regression()
    told["whole"] = story(program, run(program, folder / "checkpoints-whole" / str(processes.number)))
    program = Regression()
    told["gone on"] = story(program, run(program, folder / "checkpoints-one"))
    told["interrupted"] = interrupted(Regression(signal_at=9), folder / "checkpoints-two")
    stages(folder, "two")
    (folder / f"told-{processes.number}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
