"""What two processes do together for test_sharding.py, started by torchrun: `launched_sharding.py FOLDER`."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from peterrec.data.prepared import PreparedLog, open_prepared
from peterrec.encoders.table_shard import Owners, TableShard
from peterrec.settings import load_settings
from peterrec.stages import pretrain
from peterrec.training.checkpoint import Checkpoint
from peterrec.training.device import open_accelerator
from peterrec.training.optimizer import Updater
from peterrec.training.pretraining import PretrainingProgram
from peterrec.training.processes import Processes, join
from peterrec.training.sharding import shard_tables, unshard_tables, whole_tables
from peterrec.training.state import TrainingState, pack, unpack

SETTINGS = [
    "encoder.hidden_size=16",
    "encoder.kind=nextitnet",
    "encoder.dilations=[1,2]",
    "encoder.max_length=50",
    "encoder.dropout=0",
    "objective.softmax=sampled",
    "objective.negatives=20",
    "training.epochs=2",
    "training.positions=500",
    "training.warmup=5",
    "training.clip=0.2",
    "training.device=cpu",
    "training.micro_batch=150",
]
CASES = {
    "dense": ["training.table_update=dense"],
    "lazy_adam": ["training.table_update=lazy_adam", "encoder.tie_output=false"],
    "rowwise_adagrad": ["training.table_update=rowwise_adagrad"],
}
STEPS = 4  # at a time

ROWS, WIDTH = 31, 4  # the second process holds one row less
ASKED = [  # by each process: rows that come twice, of both parts, of one part, and none
    [[[0, 30, 7], [7, 16, 15]], [[29, 29, 29], [2, 1, 0]]],
    [[3, 5, 3, 9], [9, 20]],
    [[30], []],
    [[], []],
]


def table() -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(3))


def weights(shape: tuple[int, ...]) -> Tensor:
    """What the rows are multiplied by, so that each asked for has a gradient of its own."""
    return torch.arange(1, 1 + int(np.prod(shape))).float().reshape(shape)


def settings(case: str, *, shard: bool) -> pretrain.PretrainSettings:
    more = [*CASES[case], f"training.shard_tables={str(shard).lower()}"]
    return load_settings(pretrain.PretrainSettings, overrides=[*SETTINGS, *more])


def lookups(owners: Owners) -> list[dict]:
    """Rows and gradients of each of `ASKED`, in two pieces that add up."""
    told = []
    for sparse in (False, True):
        for asked in ASKED:
            shard = TableShard.of(table().requires_grad_(), owners)
            ids = torch.tensor(asked[owners.number], dtype=torch.int64)
            for piece in (1, 2):
                found = shard.rows(ids, sparse=sparse, padding_idx=0)
                (found * weights(tuple(found.shape)) * piece).sum().backward()
            gradient = torch.zeros_like(shard) if shard.grad is None else shard.grad
            assert shard.grad is None or gradient.is_sparse == sparse
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
            told.append(
                {
                    "rows": found.tolist(),
                    "gradient": shard.whole(gradient).tolist(),
                    "spare": [shard[0].abs().sum().item(), gradient[0].abs().sum().item()],
                    "held": len(shard) - 1,
                    "whole": torch.equal(shard.whole(), table()),
                    "part": torch.equal(shard.part_of(table()), shard.detach()),
                }
            )
    return told


class Course:
    """A training by hand: with the other process on sharded tables, or alone on whole ones."""

    def __init__(self, prepared: PreparedLog, case: str, *, shard: bool) -> None:
        wanted = settings(case, shard=shard)
        vocabulary = prepared.vocabulary
        self.encoder = pretrain.build_encoder(wanted, vocab_size=len(vocabulary), fingerprint=vocabulary.fingerprint)
        self.program = PretrainingProgram(
            self.encoder,
            train=prepared.sequences("train"),
            validation=prepared.sequences("validation"),
            objective=wanted.objective,
            settings=wanted.training,
        )
        self.settings = settings(case, shard=True).training  # checkpoints pass between courses of both kinds
        self.processes = join() if shard else Processes()
        accelerator = open_accelerator(wanted.training, processes=self.processes)
        self.updater = Updater(self.encoder, settings=wanted.training, accelerator=accelerator)
        self.state = TrainingState(total=100)
        self.losses: list[float] = []
        self.pieces: list[list[int]] = []  # computed and counted ones, a step

    def go(self) -> None:
        for batch in self.program.steps(1)[self.state.step : self.state.step + STEPS]:
            loss, weight = torch.zeros(()), self.program.weight(batch)
            pieces = self.program.pieces(batch, part=self.processes.number, parts=self.processes.count)
            for piece in pieces:
                mean, own = self.program.loss(piece, torch.device("cpu"))
                self.updater.add(mean * (own / weight))
                loss += mean.detach() * (own / weight)
            self.processes.sum_gradients(list(self.updater.parameters.values()), loss=loss, stop=False)
            self.updater.update(loss, step=self.state.step, rate=0.01)
            self.losses.append(loss.item())
            self.pieces.append([len(pieces), sum(piece.counted for piece in pieces)])
            self.state.step += 1

    def save(self) -> Checkpoint:
        tensors, facts = pack(
            self.state,
            model=self.encoder,
            updater=self.updater,
            loss_sum=torch.zeros(()),
            best={name: p.detach().clone() for name, p in self.encoder.named_parameters()},
            settings=self.settings,
        )
        # as if from a file: what is packed are the live tensors
        return Checkpoint(self.state.step, {name: t.clone() for name, t in tensors.items()}, facts)

    def load(self, found: Checkpoint) -> None:
        self.state, _ = unpack(
            found, model=self.encoder, updater=self.updater, loss_sum=torch.zeros(()), settings=self.settings
        )


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in wanted.items()}
    return max(float((found[name] - t).abs().max()) for name, t in wanted.items())


def trainings(prepared: PreparedLog, case: str) -> dict:
    """The same steps sharded and whole, and both going on from the other's checkpoint."""
    sharded, whole = Course(prepared, case, shard=True), Course(prepared, case, shard=False)
    sharded.go(), whole.go()
    ours, theirs = sharded.save(), whole.save()
    told = {
        "tensors": sorted(theirs.tensors),
        "held": {n: list(p.shape) for n, p in sharded.encoder.named_parameters() if isinstance(p, TableShard)},
        "state": {name: len(t) for name, t in sharded.updater.state().items() if "embed_tokens" in name and t.ndim},
        "difference": difference(ours.tensors, theirs.tensors),
        "moved": difference(ours.tensors, Course(prepared, case, shard=False).save().tensors | _optimizer(ours)),
        "pieces": sharded.pieces,
    }
    on, back = Course(prepared, case, shard=True), Course(prepared, case, shard=False)
    on.load(theirs), back.load(ours)
    for course in (on, back, whole):
        course.go()
    told["losses"] = [*sharded.losses, *on.losses], [*whole.losses[:STEPS], *back.losses], whole.losses
    told["gone on"] = [difference(course.save().tensors, whole.save().tensors) for course in (on, back)]
    return told


def _optimizer(found: Checkpoint) -> dict[str, Tensor]:
    return {name: t for name, t in found.tensors.items() if name.startswith("optimizer/")}


def tables_put_back(prepared: PreparedLog) -> dict:
    """A sharded encoder lent whole to the main process, and made whole again."""
    wanted = settings("lazy_adam", shard=True)
    made = [pretrain.build_encoder(wanted, vocab_size=len(prepared.vocabulary), fingerprint="") for _ in range(2)]
    encoder, reference = (each.eval() for each in made)
    shard_tables(encoder, sampled=True)
    ids = torch.tensor([[3, 50, 102, 0], [4, 5, 0, 0]])
    told: dict = {"looked up": torch.equal(encoder(ids).user_vector, reference(ids).user_vector)}
    with whole_tables(encoder, keep=join().main):
        if join().main:  # without the other
            told["lent"] = torch.equal(encoder(ids).user_vector, reference(ids).user_vector)
            told["scores"] = torch.equal(encoder.score_table(), reference.score_table())
    told["sharded again"] = sum(isinstance(p, TableShard) for p in encoder.parameters())
    unshard_tables(encoder)
    told["left"] = sum(isinstance(p, TableShard) for p in encoder.parameters())
    told["kind"] = type(encoder.embed_tokens).__name__, encoder.embed_tokens.padding_idx, encoder.embed_tokens.sparse
    told["whole"] = all(torch.equal(t, reference.state_dict()[n]) for n, t in encoder.state_dict().items())
    return told


def main(folder: Path) -> None:
    processes = join()
    assert dist.get_world_size() == processes.count == 2
    owners = Owners(
        number=processes.number, count=processes.count, largest=lambda number: int(processes.meet([number]).max())
    )
    prepared = open_prepared(folder / "prepared")
    told = {"lookups": lookups(owners), "tables": tables_put_back(prepared)}
    told["trainings"] = {case: trainings(prepared, case) for case in CASES}
    pretrain.run(
        folder / "prepared", output=folder / "two", settings=settings("lazy_adam", shard=True), progress="silent"
    )
    (folder / f"told-{processes.number}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
