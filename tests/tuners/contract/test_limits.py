"""The list of what tuners cannot do names tests and tuners that exist."""

import re
from pathlib import Path


def test_every_limit_names_a_test_and_a_tuner(cannot, tuners):
    text = "\n".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    assert set(cannot) <= set(re.findall(r"^def (test_\w+)\(", text, flags=re.MULTILINE))
    assert {name for known in cannot.values() for name in known} <= set(tuners)
