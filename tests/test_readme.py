"""The README's Python runs as it stands, on a small encoder."""

import re
import shutil
from pathlib import Path

import pytest

from peterrec.stages import finetune

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def runs(encoder_folder, tmp_path_factory):
    """A folder with runs/encoder, runs/gender and runs/age."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(encoder_folder, folder / "runs" / "encoder")
    data = encoder_folder.with_name("prepared")
    for task in ("gender", "age"):
        finetune.run(
            task,
            encoder=folder / "runs" / "encoder",
            data=data,
            output=folder / "runs" / task,
            overrides=["epochs=1", "device=cpu"],
            progress="silent",
        )
    return folder


def test_there_is_python():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_runs(block, runs, monkeypatch):
    monkeypatch.chdir(runs)
    names: dict[str, object] = {}
    exec(compile(block, str(README), "exec"), names)
    if "vectors" in names:
        assert names["vectors"].isfinite().all()
