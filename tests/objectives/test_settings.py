"""Which softmax serves a catalogue, and what is said of it."""

import pytest

from peterrec.errors import SettingsError
from peterrec.objectives.settings import MOST_EXACT_ROWS, ObjectiveSettings


@pytest.mark.parametrize(
    ("softmax", "rows", "sampled"),
    [
        ("auto", 3_700, False),
        ("auto", MOST_EXACT_ROWS, False),
        ("auto", MOST_EXACT_ROWS + 1, True),
        ("exact", 1_000_000, False),
        ("sampled", 3_700, True),
    ],
)
def test_the_number_of_rows_decides_unless_the_settings_do(softmax, rows, sampled):
    settings = ObjectiveSettings(softmax=softmax)
    assert settings.sampled(rows) is sampled
    told = settings.describe(rows)
    assert f"{rows:,}" in told
    assert ("1,024 negatives" in told) is sampled
    assert ("as objective.softmax says" in told) is (softmax != "auto")


def test_as_many_negatives_as_items_are_no_sample():
    settings = ObjectiveSettings(softmax="sampled", negatives=100)
    assert settings.sampled(104)
    with pytest.raises(SettingsError, match=r"negatives = 100 is no sample of 100 items.*softmax = exact"):
        settings.sampled(103)
    automatic = ObjectiveSettings(negatives=30_000)
    assert not automatic.sampled(25_000)
    assert "exact (objective.negatives = 30,000 would be no sample" in automatic.describe(25_000)


def test_the_stated_limit_is_the_one_that_decides():
    description = ObjectiveSettings.model_fields["softmax"].description
    assert f"{MOST_EXACT_ROWS:,}" in description
