"""What differs between two runs' settings, and what to do about it."""

from peterrec.setting_changes import how_to_go_on, setting_changes


def told(before, now, **options):
    return [str(change) for change in setting_changes(before, now, **options)]


def test_values_and_missing_settings_are_told_apart():
    before = {"task": "gender", "training": {"epochs": 3, "seed": None, "old": 1}}
    now = {"task": "gender", "training": {"epochs": 4, "seed": None, "table_update": None}}
    assert told(before, before) == []
    assert told(before, now) == [
        "training.epochs (3 before, 4 now)",
        "training.old (1 before, no such setting now)",
        "training.table_update (no such setting before, null now)",
    ]
    free = ["training.epochs", "training.old", "training.table_update"]
    assert told(before, now, free=free[1:]) == ["training.epochs (3 before, 4 now)"]
    assert told(before, now, free=free) == []


def test_what_to_do_follows_from_what_differs():
    value = setting_changes({"a": 1}, {"a": 2})
    missing = setting_changes({}, {"b": 2})
    assert how_to_go_on(value) == "Run the same command as before to go on"
    assert "another version of peterrec made that run" in how_to_go_on(missing)
    assert "same command as before, with the version" in how_to_go_on([*value, *missing])
