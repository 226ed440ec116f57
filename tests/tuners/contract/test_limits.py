"""The list of what adapters cannot do names tests, and tags of cases, that exist."""

import re
from pathlib import Path


def test_every_limit_names_a_test_and_a_tag(cannot, no_place, cases):
    text = "\n".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    assert set(cannot) <= set(re.findall(r"^def (test_\w+)\(", text, flags=re.MULTILINE))
    tags = set().union(*(case.tags for case in cases))
    assert {tag for known in cannot.values() for tag in known} | set(no_place) <= tags
