"""The battery runs over the whole catalogue, each case called as the file it comes from."""

from pathlib import Path

ADAPTERS = Path(__file__).parents[3] / "adapters"
NO_ADAPTER = {"none.toml", "full.toml"}  # nothing around the encoder: the head alone, and every weight


def test_every_recipe_that_puts_something_around_the_encoder_is_a_case(cases):
    files = {file.name for file in ADAPTERS.glob("*.toml")}
    assert files > NO_ADAPTER
    assert files - NO_ADAPTER == {case.name for case in cases if case.name.endswith(".toml")}
