"""Checkpoints: what was committed can be read, whenever the writer was killed."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from peterrec.errors import RefusedError, ResourceError
from peterrec.training import checkpoint
from peterrec.training.checkpoint import commit, load_latest


def state(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "a": torch.randn(3, 4, generator=generator),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "scalar": torch.tensor(float(step)),
        "transposed": torch.randn(4, 3, generator=generator).T,
    }


def put(folder: Path, step: int) -> None:
    commit(folder, step=step, tensors=state(step), facts={"step": step, "history": [0.1 + 0.2]})


def newest(folder: Path) -> int | None:
    found = load_latest(folder)
    if found is None:
        return None
    assert found.facts == {"step": found.step, "history": [0.1 + 0.2]}
    for name, tensor in state(found.step).items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    return found.step


def test_the_newest_is_read_back_exactly_and_two_are_kept(tmp_path: Path) -> None:
    assert newest(tmp_path / "missing") is None
    for step in (3, 9, 10, 200_000_000):
        put(tmp_path, step)
        assert newest(tmp_path) == step
    assert {p.name for p in tmp_path.iterdir()} == {"step-00000010", "step-200000000"}


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    put(tmp_path, 1)
    commit(tmp_path, step=2, tensors={"x": torch.zeros(1)}, facts={})
    put(tmp_path, 2)
    assert newest(tmp_path) == 2
    put(tmp_path, 3)
    put(tmp_path, 4)
    assert {p.name for p in tmp_path.iterdir()} == {"step-00000003", "step-00000004"}


@pytest.mark.parametrize("file", ["tensors.safetensors", "facts.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "torn", "flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, file: str, damage: str) -> None:
    put(tmp_path, 1)
    put(tmp_path, 2)
    path = tmp_path / "step-00000002" / file
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) * 3 // 4] ^= 1
        path.write_bytes(content)
    assert newest(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_newer_format_is_refused_and_kept(tmp_path: Path) -> None:
    put(tmp_path, 1)
    path = tmp_path / "step-00000001" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))
    with pytest.raises(RefusedError, match="newer peterrec"):
        load_latest(tmp_path)
    assert path.exists()


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match="step-00000002: No space left"):
            put(tmp_path, 2)
    with pytest.raises(ValueError, match="JSON"):
        commit(tmp_path, step=2, tensors={}, facts={"x": float("nan")})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert newest(tmp_path) == 1


@pytest.mark.parametrize("same_step", [False, True])
def test_a_kill_at_any_point_loses_no_committed_checkpoint(tmp_path: Path, same_step: bool, capsys) -> None:
    points = survived = 0
    new = 3 if same_step else 4
    while True:
        folder = tmp_path / str(points)
        for step in (1, 2, 3):
            put(folder, step)
        child = os.fork()
        if child == 0:
            _die_at(points + 1)
            put(folder, new)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        points += 1
        complete = newest(folder)
        assert complete in (3, new), f"killed at {points}: {complete}"
        survived += 1
        put(folder, 5)  # and the next writer is not disturbed by what was left
        assert newest(folder) == 5
        assert len(list(folder.iterdir())) == 2
        shutil.rmtree(folder)
    with capsys.disabled():
        print(f"{survived} of {points} kill points recovered", end=" ")
    assert survived == points > 15


def _die_at(k: int) -> None:
    """Kill this process before its k-th flush, rename, delete or write, or half-way through a write."""
    count = 0

    def armed(function, torn=None):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == k:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if torn is not None:
                count += 1
                if count == k:
                    os.truncate(torn(*args), torn(*args).stat().st_size // 2)
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("fsync", "unlink", "rmdir", "replace", "rename", "mkdir"):
        setattr(os, name, armed(getattr(os, name)))
    checkpoint.save_file = armed(checkpoint.save_file, torn=lambda tensors, path: path)
    Path.write_text = armed(Path.write_text, torn=lambda path, *_: path)
