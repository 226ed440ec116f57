"""Settings: layers, overrides, and messages that say what is wrong and where."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from peterrec.errors import SettingsError
from peterrec.settings import (
    Settings,
    dump,
    load_settings,
    parse_override,
    settings_table,
    to_toml,
    validate,
)


class Inner(Settings):
    width: int = Field(default=8, ge=1, description="channels")
    blocks: Literal["all"] | Annotated[int, Field(ge=1)] = "all"


class Outer(Settings):
    rate: float = Field(default=1e-3, gt=0, le=1, description="step size")
    dilations: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2)
    patience: int | None = Field(default=5, ge=1)
    fast: bool = False
    label: str = "x"
    folder: Path | None = None
    inner: Inner = Inner()
    other: Inner | None = None
    free: dict[str, bool | int | float | str] = Field(default={})

    @model_validator(mode="after")
    def _rule(self) -> "Outer":
        if self.fast and self.rate == 1:
            raise ValueError("fast = true needs a rate below 1")
        return self


class Required(Settings):
    name: str


def failure(*overrides: str, file: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(Outer, file=file, overrides=overrides)
    return str(caught.value)


def test_layers_file_overrides(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('rate = 0.5\nlabel = "file"\n[inner]\nwidth = 3\n')
    settings = load_settings(
        Outer,
        layers=[("task", {"rate": 0.1, "patience": 2}), ("adapter", {"patience": 3, "inner": {"blocks": 2}})],
        file=file,
        overrides=["label=set", "inner.width = 4"],
    )
    assert settings == Outer(rate=0.5, patience=3, label="set", inner=Inner(width=4, blocks=2))


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("rate=1e-4", "rate", 1e-4),
        ("rate=.5", "rate", 0.5),
        ("rate=1", "rate", 1.0),
        ("inner.width=1e1", "inner", Inner(width=10)),
        ("dilations=[1, 4]", "dilations", (1, 4)),
        ("fast=true", "fast", True),
        ("fast=True", "fast", True),
        ("label=some words", "label", "some words"),
        ('label="quoted"', "label", "quoted"),
        ("label=a=b", "label", "a=b"),
        ("label=", "label", ""),
        ("patience=none", "patience", None),
        ("label=none", "label", "none"),
        ("folder=a/b", "folder", Path("a/b")),
        ("inner.blocks=2", "inner", Inner(blocks=2)),
        ("other.width=2", "other", Inner(width=2)),
        ("free.key=1e-4", "free", {"key": 1e-4}),
        ("free.key=text", "free", {"key": "text"}),
        ("free.key=true", "free", {"key": True}),
    ],
)
def test_override_values(override: str, key: str, value: object) -> None:
    found = getattr(load_settings(Outer, overrides=[override]), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate=fast", 'rate = "fast": expected float > 0 and <= 1; from --set rate=fast.'),
        ("rate=2", "rate = 2: expected float > 0 and <= 1; from --set rate=2."),
        ("rate=inf", "rate = Infinity: Input should be a finite number; from --set rate=inf."),
        ("rate=nan", "rate = NaN: Input should be a finite number"),
        ("free.a=-inf", "free.a = -Infinity"),
        ("dilations=[1,0]", "dilations[1] = 0: expected list of int >= 1"),
        ("dilations=[1,2.5]", "dilations[1] = 2.5: expected list of int >= 1"),
        ("inner.width=true", "inner.width = true: expected int >= 1"),
        ("inner.width=2.5", "inner.width = 2.5: expected int >= 1"),
        ('inner.width="2"', 'inner.width = "2": expected int >= 1'),
        ("inner.blocks=0", "inner.blocks = 0: expected 'all' or int >= 1"),
        ("inner=3", "inner = 3: expected table"),
        ("patience=0", "patience = 0: expected int >= 1 or none"),
        ("fast=1", "fast = 1: expected bool"),
        ("label=1", "label = 1: expected text"),
        ("rat=1", "--set rat=1: unknown setting 'rat'. Did you mean 'rate'? Known: dilations, fast,"),
        ("inner.widht=1", "unknown setting 'inner.widht'. Did you mean 'inner.width'?"),
        ("rate.x=1", "unknown setting 'rate.x'"),
        ("rate", "--set rate: expected key=value"),
        ("=1", "expected key=value"),
        ("a..b=1", "expected key=value"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    text = failure(override)
    assert message in text
    assert "\n" not in text, "one problem, one line"


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('rate = 3\n[inner]\nwidht = 1\n[other]\nwidth = "x"\n')
    lines = failure("patience=0", file=file).splitlines()
    assert len(lines) == 4
    assert f"rate = 3: expected float > 0 and <= 1; from {file}." in lines
    assert "patience = 0: expected int >= 1 or none; from --set patience=0." in lines
    assert any(
        line.startswith(f"unknown setting 'inner.widht'; from {file}. Did you mean 'inner.width'?") for line in lines
    )


def test_rules_over_several_keys() -> None:
    text = failure("rate=1", "fast=true")
    assert text.startswith("fast = true needs a rate below 1; from --set rate=1, --set fast=true")


def test_missing_keys() -> None:
    with pytest.raises(SettingsError, match=r"^name: missing \(text\); set it in a settings file or with --set"):
        load_settings(Required)
    assert validate(Required, {"name": "a"}, origin="x").name == "a"
    with pytest.raises(SettingsError, match=r"unknown setting 'nmae'; from x\. Did you mean 'name'"):
        validate(Required, {"name": "a", "nmae": "b"}, origin="x")


def test_unreadable_files(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    assert f"{file}: there is no such file" in failure(file=file)
    file.write_text("rate = 1\nlabel =\n")
    assert f"{file}: not valid TOML" in failure(file=file)
    assert "line 2" in failure(file=file)
    file.write_bytes(b'label = "\xff"')
    assert "not UTF-8" in failure(file=file)
    assert "cannot be read" in failure(file=tmp_path)


def test_an_override_replaces_what_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("rate = 3\n")
    assert load_settings(Outer, file=file, overrides=["rate=0.5"]).rate == 0.5
    file.write_text('other = "none"\n')
    assert load_settings(Outer, file=file, overrides=["other.width=3"]).other == Inner(width=3)


def test_table() -> None:
    rows = {row.key: row for row in settings_table(Outer)}
    assert list(rows)[:2] == ["rate", "dilations"]
    assert rows["rate"] == ("rate", "float > 0 and <= 1", "0.001", "step size")
    assert rows["inner.width"] == ("inner.width", "int >= 1", "8", "channels")
    assert rows["patience"].type == "int >= 1 or none"
    assert rows["dilations"].type == "list of int >= 1"
    assert rows["folder"].default == "none"
    assert "inner" not in rows
    assert settings_table(Required)[0].default == "required"


numbers = st.floats(min_value=1e-9, max_value=1)
texts = st.text(st.characters(exclude_categories=["C"]), max_size=20).filter(lambda text: text != "none")
outers = st.builds(
    Outer,
    rate=numbers.filter(lambda rate: rate < 1),
    dilations=st.lists(st.integers(1, 2**40), max_size=3).map(tuple),
    patience=st.none() | st.integers(1, 10),
    fast=st.booleans(),
    label=texts,
    other=st.none() | st.builds(Inner, width=st.integers(1, 9)),
    free=st.dictionaries(texts.filter(bool), st.booleans() | st.integers(0, 9) | numbers | texts, max_size=3),
)


@given(outers)
def test_toml_round_trip(settings: Outer) -> None:
    import tomllib

    again = validate(Outer, tomllib.loads(to_toml(dump(settings))), origin="x")
    assert again == settings
    assert dump(again) == dump(settings)


@given(st.text(max_size=30))
def test_any_text_is_a_value(text: str) -> None:
    key, value = parse_override(f"a={text}")
    assert key == "a"
    assert isinstance(value, str | int | float | bool | list | dict) or type(value).__module__ == "datetime"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Inner().width = 3  # pyright: ignore[reportAttributeAccessIssue]
