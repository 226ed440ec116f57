"""The catalogues of recipes: one TOML an adapter or a task, found by name or path, read closed."""

from pathlib import Path
from typing import Any, TypeVar

from peterrec.adapter_recipe import TUNERS as TUNERS
from peterrec.adapter_recipe import AdapterRecipe
from peterrec.errors import SettingsError, did_you_mean
from peterrec.impression_recipe import ImpressionTask as ImpressionTask
from peterrec.peft_methods import PEFT_METHODS as PEFT_METHODS
from peterrec.ranking_recipe import RankingTask as RankingTask
from peterrec.settings import Settings, dump, read_toml, to_toml, validate
from peterrec.task_recipe import METRICS as METRICS
from peterrec.task_recipe import HeadRecipe as HeadRecipe
from peterrec.task_recipe import Metric as Metric
from peterrec.task_recipe import SplitRecipe as SplitRecipe
from peterrec.task_recipe import TaskRecipe as TaskRecipe
from peterrec.task_recipe import Watched as Watched

KINDS = {"adapters": "adapter", "tasks": "task"}
# what each kind of task is told to take, where another one was asked for
TASK_KINDS: dict[str, type[TaskRecipe] | type[RankingTask] | type[ImpressionTask]] = {
    "classification": TaskRecipe,
    "ranking": RankingTask,
    "impressions": ImpressionTask,
}
AnyTask = TaskRecipe | RankingTask | ImpressionTask
Recipe = TypeVar("Recipe", bound=Settings)


def catalogue(kind: str) -> Path:
    """The folder of a kind's recipes: inside the package when installed, beside it in a checkout."""
    if kind not in KINDS:
        raise SettingsError(f"unknown catalogue {kind!r}. {did_you_mean(kind, KINDS)}")
    package = Path(__file__).resolve().parent
    installed = package / "recipes" / kind
    return installed if installed.is_dir() else package.parent / kind


def names(kind: str) -> list[str]:
    """The names of a kind's recipes ("adapters", "tasks"), sorted."""
    return sorted(file.stem for file in catalogue(kind).glob("*.toml"))


def find(kind: str, name: str | Path) -> Path:
    """The TOML of a recipe: a name from the catalogue, or the path of a `.toml` anywhere.

    Raises SettingsError with the nearest name when there is none.
    """
    if str(name).endswith(".toml"):
        file = Path(name).expanduser()
        if not file.is_file():
            raise SettingsError(f"{name}: there is no such {KINDS[kind]} file.")
        return file
    known = names(kind)
    if str(name) not in known:
        raise SettingsError(
            f"unknown {KINDS[kind]} {str(name)!r}. {did_you_mean(str(name), known)} "
            "For a recipe of your own, give the path of its .toml."
        )
    return catalogue(kind) / f"{name}.toml"


def adapter(name: str | Path) -> AdapterRecipe:
    """The adapter of that name, or in that file."""
    return _read(AdapterRecipe, find("adapters", name))


def task(name: str | Path) -> TaskRecipe:
    """The task on users of that name, or in that file. Raises SettingsError for one of another kind."""
    recipe = any_task(name)
    if isinstance(recipe, RankingTask):
        raise SettingsError(
            f"task {recipe.name}: kind = 'ranking' recommends the items of a target domain; it has no classes. Name "
            "its logs with --source and --target, or take a task of kind 'classification'."
        )
    if isinstance(recipe, ImpressionTask):
        raise SettingsError(
            f"task {recipe.name}: kind = 'impressions' learns from labelled impressions; it has no classes of users. "
            "Name impressions that `peterrec prepare --label` has prepared, or take a task of kind 'classification'."
        )
    return recipe


def ranking_task(name: str | Path) -> RankingTask:
    """The task of that name, or in that file, which ranks items. Raises SettingsError for one of another kind."""
    recipe = any_task(name)
    if isinstance(recipe, TaskRecipe):
        raise SettingsError(
            f"task {recipe.name}: kind = 'classification' predicts a label of the users; it ranks no items. Leave "
            "--source and --target out, or take a task of kind 'ranking'."
        )
    if isinstance(recipe, ImpressionTask):
        raise SettingsError(
            f"task {recipe.name}: kind = 'impressions' learns from labelled impressions; it ranks no items. Leave "
            "--source and --target out, or take a task of kind 'ranking'."
        )
    return recipe


def impression_task(name: str | Path) -> ImpressionTask:
    """The task of that name, or in that file, on impressions. Raises SettingsError for one of another kind."""
    recipe = any_task(name)
    if not isinstance(recipe, ImpressionTask):
        raise SettingsError(
            f"task {recipe.name}: kind = {recipe.kind!r} does not learn from impressions. Take a task of kind "
            "'impressions' (`peterrec list tasks`), or data that were prepared without --label."
        )
    return recipe


def any_task(name: str | Path) -> AnyTask:
    """The task of that name, or in that file, of whatever kind its key `kind` says."""
    file = find("tasks", name)
    kind = read_toml(file).get("kind", "classification")
    if kind not in TASK_KINDS:
        raise SettingsError(f'{file}: kind = "{kind}": expected {", ".join(map(repr, TASK_KINDS))}.')
    return _read(TASK_KINDS[str(kind)], file)


def describe(kind: str, name: str | Path) -> str:
    """The comment block that opens a recipe, without its `#` signs; its first line says what it is."""
    lines = []
    for line in find(kind, name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return "\n".join(lines).strip()


def given(recipe: Settings) -> dict[str, Any]:
    """What a recipe says, without what is not set: twenty of them shall stay readable."""
    return _without_none(dump(recipe))


def recipe_text(recipe: AnyTask | AdapterRecipe) -> str:
    """A recipe as the TOML that it may be read from."""
    return to_toml({key: value for key, value in dump(recipe).items() if key != "name" and value is not None})


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def _read(model: type[Recipe], file: Path) -> Recipe:
    values: dict[str, Any] = read_toml(file)
    if "name" in values:
        raise SettingsError(f"{file}: unknown key 'name': a recipe is called as its file is.")
    return validate(model, {"name": file.stem, **values}, origin=str(file))
