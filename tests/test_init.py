"""`import peterrec` alone makes encoders and tuners known, and costs nothing by itself."""

import subprocess
import sys

import pytest

import peterrec


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_is_light():
    heavy = "torch, transformers, peft, duckdb, sklearn, matplotlib, pyarrow"
    found = python(f"import sys, peterrec, peterrec.cli; print([m for m in '{heavy}'.split(', ') if m in sys.modules])")
    assert found == "[]"


@pytest.mark.parametrize("imports", ["import peterrec, transformers", "import transformers, peterrec"])
def test_the_auto_classes_know_the_encoder(tmp_path, imports):
    peterrec.NextItNet(peterrec.NextItNetConfig(vocab_size=23, hidden_size=8, dilations=(1, 2))).save_pretrained(
        tmp_path
    )
    code = f"{imports}; print(type(transformers.AutoModel.from_pretrained({str(tmp_path)!r})).__name__)"
    assert python(f"import os; os.environ['HF_HUB_DISABLE_PROGRESS_BARS'] = '1'; {code}") == "NextItNet"


def test_peft_knows_the_patch(tmp_path):
    config = peterrec.PatchConfig(bottleneck=2)
    config.save_pretrained(tmp_path)
    code = f"import peterrec, peft; print(type(peft.PeftConfig.from_pretrained({str(tmp_path)!r})).__name__)"
    assert python(code) == "PatchConfig"


def test_every_public_name_is_there():
    for name in peterrec._HOMES:
        assert getattr(peterrec, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = peterrec.nothing
