from typing import Any

from peterrec.report.card import card_markdown

SETTINGS: dict[str, Any] = {
    "task": "gender",
    "training": {"epochs": 3, "encoder": "/home/someone/runs/encoder"},
}


def cells(line: str) -> int:
    return line.replace("\\|", "").count("|") - 1


def test_the_card_holds_results_use_and_the_privacy_note(metrics: dict[str, Any]) -> None:
    text = card_markdown(metrics, title="gender", settings=SETTINGS, usage=["peterrec predict runs/gender"])
    lines = text.splitlines()
    assert lines[0] == "# gender"
    assert "serial is better" in text
    assert "By user, 70/3/27." in text
    [row] = [line for line in lines if line.startswith("| serial |")]
    assert row.startswith("| serial | model | **0.810**\\* [0.790, 0.825] |")
    assert [line for line in lines if line.startswith("| bag of items | baseline | 0.780 [0.760, 0.795]")]
    assert "```\nperterrec".replace("perterrec", "peterrec") in text
    assert "Not for decisions about individuals" in text
    assert "subgroup" in text
    assert "| F | 40 | 0.750 |" in text
    assert "/home/someone" not in text
    assert "…/encoder" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 3
    for table in tables:
        assert len({cells(line) for line in table}) == 1


def test_names_cannot_break_the_card(metrics: dict[str, Any]) -> None:
    metrics["results"][2]["name"] = "a|b\n# c <script>*"
    metrics["confusion"]["labels"][0] = "x | y ```"
    text = card_markdown(metrics, title="<b>t", settings={}, usage=["echo ```"])
    assert "<script>" not in text
    assert "<b>" not in text
    assert "| a\\|b \\# c &lt;script&gt;\\* | model |" in text
    assert "````\necho ```\n````" in text
    for line in text.splitlines():
        assert not line.startswith("# c")


def test_a_card_without_results() -> None:
    text = card_markdown({"stage": "prepare"}, title="log", settings={}, usage=[])
    assert "DatasetDict" in text
    assert "## Results" not in text
    assert "## Privacy" in text
    assert card_markdown({}, title="x", settings={}, usage=[]).startswith("# x\n")
