"""Recipes: those of the catalogues, and wrong ones."""

import re
from pathlib import Path

import pytest

from peterrec import catalogue
from peterrec.catalogue import AdapterRecipe, ImpressionTask, RankingTask, TaskRecipe
from peterrec.errors import SettingsError
from peterrec.impression_design import design
from peterrec.peft_methods import PEFT_METHODS, places
from peterrec.settings import dump, load_settings, settings_table, to_toml, validate
from peterrec.task_recipe import AUTO
from peterrec.training.finetuning import FinetuningSettings
from peterrec.training.impression_step import ImpressionSettings
from peterrec.training.settings import TrainingSettings

READ = {"adapters": catalogue.adapter, "tasks": catalogue.any_task}
RECIPES = [(kind, name) for kind in catalogue.KINDS for name in catalogue.names(kind)]


PEFT = 'tuner = "peft"\n[peft]\nmethod = "{}"\nwhere = "{}"\n'


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_readme_lists_exactly_the_files(kind: str) -> None:
    folder = catalogue.catalogue(kind)
    linked = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.toml\)", (folder / "README.md").read_text(), re.MULTILINE)
    assert all(name == file for name, file in linked)
    assert sorted(name for name, _ in linked) == sorted(file.stem for file in folder.glob("*.toml"))
    assert {file.suffix for file in folder.iterdir()} == {".toml", ".md"}, "catalogues hold no code"


@pytest.mark.parametrize(("kind", "name"), RECIPES)
def test_every_recipe_is_valid_and_described(kind: str, name: str) -> None:
    recipe = READ[kind](name)
    assert recipe.name == name
    description = catalogue.describe(kind, name).splitlines()
    assert description[0].endswith(".")
    assert description[1] == ""
    assert len(description) > 2


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_readme_has_every_key_with_its_default(kind: str) -> None:
    text = (catalogue.catalogue(kind) / "README.md").read_text()
    models = {"adapters": [AdapterRecipe], "tasks": [TaskRecipe, RankingTask, ImpressionTask]}[kind]
    for setting in [setting for model in models for setting in settings_table(model)]:
        if setting.key not in ("name", "training"):
            assert f"`{setting.key}`" in text, setting.key


def test_readme_of_impressions_has_every_key_once_with_its_default() -> None:
    text = (catalogue.catalogue("tasks") / "README.md").read_text()
    section = text.partition("### What follows an impression\n")[2]
    above, _, below = section.partition(" are as above")
    rows = re.findall(r"^\| `([^`|]+)` \| .+ \| (.+) \|$", below, re.MULTILINE)
    stated = dict(rows)
    assert len(stated) == len(rows), "a key stands twice"
    known = {setting.key: setting.default for setting in settings_table(ImpressionTask)}
    as_above = {key for key in known if f"`{key}`" in above}
    assert stated.keys() | as_above == known.keys() - {"name", "training"}
    assert not stated.keys() & as_above
    for key, default in stated.items():
        if default.startswith("`"):
            assert default == f"`{known[key]}`", f"{key}: {default}, and it is {known[key]}"
        else:  # in words: what stands for a key that is left out
            assert known[key] in ("required", "none", "[]"), f"{key}: {default}, and it is {known[key]}"
            assert default == "required" or known[key] != "required", key
    of_others = {
        setting.key: setting.default for model in (TaskRecipe, RankingTask) for setting in settings_table(model)
    }
    assert all(known[key] == of_others[key] for key in as_above), "other defaults than those of the tasks above"


def test_readme_has_every_method_of_peft_with_its_places_and_options() -> None:
    text = (catalogue.catalogue("adapters") / "README.md").read_text()
    for method, options in PEFT_METHODS.items():
        names = ", ".join(f"`{option}`" for option in options) or "none"
        assert f"| `{method}` | {', '.join(places(method))} | {names} |" in text


def test_the_recipe_in_the_guide_to_impressions_fits_the_embedded_world(tmp_path: Path) -> None:
    guide = Path(__file__).parent.parent / "docs" / "impressions.md"
    (text,) = re.findall(r"^```toml\n(.*?)^```", guide.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    task = catalogue.impression_task(write(tmp_path, text, "shop.toml"))
    validate(ImpressionSettings, task.training, origin="the guide")
    binary = dict.fromkeys(("click", "cart", "conversion", "like", "completion"), True)
    plan = design(task, fields=("user", "item", "device", "position"), labels={**binary, "dwell": False}, domains=3)
    assert plan.fields == ("user", "item"), "what the guide leaves out is not read"
    assert plan.bias_fields == (("position",),)


def test_the_guide_to_impressions_has_every_recipe() -> None:
    guide = (Path(__file__).parent.parent / "docs" / "impressions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?`) \| ", guide.partition("## Which recipe")[2].partition("## Heads")[0], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    tasks = {name: catalogue.any_task(name) for name in catalogue.names("tasks")}
    assert sorted(named) == [name for name, task in tasks.items() if isinstance(task, ImpressionTask)]
    without_heads = {name for name in named if not catalogue.impression_task(name).heads}
    (listed,) = re.findall(r"without `\[\[heads\]\]` \(all but (.+?)\)", " ".join(guide.split()))
    assert set(named) - without_heads == set(re.findall(r"`(\w+)`", listed))


@pytest.mark.parametrize("name", catalogue.names("tasks"))
def test_training_tables_are_training_settings(name: str) -> None:
    recipe = catalogue.any_task(name)
    model: type[TrainingSettings] = ImpressionSettings if isinstance(recipe, ImpressionTask) else FinetuningSettings
    settings = validate(model, recipe.training, origin=f"tasks/{name}.toml")
    assert settings.epochs == recipe.training["epochs"]
    assert recipe.adapter == AUTO or catalogue.adapter(recipe.adapter)


@pytest.mark.parametrize(("kind", "name"), RECIPES)
def test_recipes_survive_a_run_folder(kind: str, name: str, tmp_path: Path) -> None:
    recipe = READ[kind](name)
    file = write(tmp_path, to_toml(dump(recipe)))
    assert load_settings(type(recipe), file=file) == recipe


def test_facts_of_the_adapters() -> None:
    none = catalogue.adapter("none")
    assert none == AdapterRecipe(name="none", tuner="none", learning_rate=none.learning_rate)
    serial = catalogue.adapter("serial")
    assert serial.patch is not None
    assert serial.patch.placement == "serial_conv"
    assert serial.patch.width(256) == 32
    assert catalogue.adapter("full").tuner == "full"
    published = catalogue.adapter("parallel_published").patch
    assert published is not None
    assert (published.shortcut, published.activation, published.width(256)) == (True, "gelu", 64)
    parallel = catalogue.adapter("parallel").patch
    assert parallel is not None
    assert not parallel.shortcut
    for name, tuner in {"serial": "patch", "star": "star", "lora": "peft", "last_1": "peft", "tcl": "peft"}.items():
        assert catalogue.adapter(name).tuner == tuner
    assert catalogue.adapter("tcl").readout == "tcl"


@pytest.mark.parametrize(
    ("patch", "width"), [("bottleneck = 5", 5), ("reduction = 4", 16), ("", 8), ("reduction = 64", 1)]
)
def test_patch_width(tmp_path: Path, patch: str, width: int) -> None:
    recipe = catalogue.adapter(write(tmp_path, f'tuner = "patch"\n[patch]\n{patch}\n'))
    assert recipe.patch is not None
    assert recipe.patch.width(64) == width


def test_patch_wider_than_the_encoder(tmp_path: Path) -> None:
    recipe = catalogue.adapter(write(tmp_path, 'tuner = "patch"\n[patch]\nreduction = 65\n'))
    assert recipe.patch is not None
    with pytest.raises(SettingsError, match=r"patch\.reduction = 65: leaves no channel of the encoder's 64"):
        recipe.patch.width(64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('tuner = "pach"', "tuner = \"pach\": unknown tuner. Did you mean 'patch'"),
        ('tuner = "patch"', "a [patch] table belongs to"),
        ('tuner = "none"\n[patch]\n', "a [patch] table belongs to"),
        ('tuner = "patch"\n[patch]\nbottleneck = 4\nreduction = 8', "patch: give either bottleneck"),
        ('tuner = "patch"\n[patch]\nbottelneck = 4', "unknown setting 'patch.bottelneck'"),
        ('tuner = "patch"\n[patch]\nbottelneck = 4', "Did you mean 'patch.bottleneck'"),
        ('tuner = "patch"\n[patch]\nplacement = "beside"', "patch.placement = \"beside\": expected 'serial"),
        ('tuner = "patch"\n[patch]\nshortcut = true', "patch: shortcut = true belongs to a parallel placement"),
        ('tuner = "star"', "a [star] table belongs to"),
        ('tuner = "peft"\n[star]\n', "a [star] table belongs to"),
        ('tuner = "peft"', "a [peft] table belongs to"),
        ('tuner = "star"\n[star]\nform = "thin"', "star.form = \"thin\": expected 'full'"),
        ('tuner = "star"\n[star]\nrank = 2', "star: rank belongs to form = 'low_rank', and form is 'per_channel'"),
        ('tuner = "star"\n[star]\ndomains = 0', "star.domains = 0: expected 'data' or int >= 1"),
        (PEFT.format("lorra", "convolutions"), "peft.method = \"lorra\": unknown method. Did you mean 'lora'"),
        (PEFT.format("lora", "conv"), "peft.where = \"conv\": expected 'convolutions' or 'norms'"),
        (PEFT.format("lora", "norms"), "peft: where = 'norms': the method lora can stand on convolutions, items"),
        (PEFT.format("lora", "items") + "blocks = 1", "peft: blocks: where = 'items' is the item table"),
        (PEFT.format("lora", "convolutions") + "options = { R = 4 }", "unknown option 'R' of the method lora. Did"),
        (PEFT.format("lora", "convolutions") + "options = { rank = 4 }", "Known: init_lora_weights, lora_alpha,"),
        (PEFT.format("lora", "convolutions") + "options = { r = 0 }", "peft: options.r = 0: input should be greater"),
        (PEFT.format("lora", "convolutions") + "options = { r = 2.5 }", "peft: options.r = 2.5: input should be a"),
        (PEFT.format("lora", "convolutions") + "options = { use_dora = 1 }", "peft: options.use_dora = 1: input"),
        (PEFT.format("lora", "convolutions") + 'options = { init_lora_weights = "pissa" }', "'gaussian' or '"),
        (PEFT.format("lora", "convolutions") + 'options = { modules_to_save = "x" }', "option 'modules_to_save'"),
        (PEFT.format("lora", "convolutions") + "options = { rank_pattern = { a = 1 } }", "peft.options.rank_pattern"),
        (PEFT.format("hra", "convolutions") + "options = { r = 3 }", "r = 3: input should be a multiple of 2"),
        (PEFT.format("ia3", "convolutions") + "options = { r = 3 }", "ia3 has no options in a recipe"),
        ("train_tcl = true\n" + PEFT.format("ia3", "convolutions"), "the method ia3 cannot hold the TCL row"),
        ("train_tcl = true\n" + PEFT.format("lora", "items"), "LoRA on the items changes the TCL row already"),
        (PEFT.format("trainable_tokens", "items"), "trainable_tokens trains the TCL row: set train_tcl = true"),
        ('tuner = "none"\nreadout = "first"', "readout = \"first\": expected 'mean' or 'last' or 'tcl' or"),
        ('tuner = "none"\nlayers = [0]', "set readout as well"),
        ('tuner = "none"\nreadout = "mean"\nitem_weights = true', "item_weights = true belongs to readout ="),
        ('tuner = "none"\nmax_length = "most"', "max_length"),
        ('tuner = "patch"\n[patch]\nblocks = "top"', "patch.blocks = \"top\": expected 'all' or int >= 1"),
        ('tuner = "patch"\n[patch]\ndropout = 1.0', "patch.dropout = 1.0: expected float >= 0 and < 1"),
        ('tuner = "full"', "set train_tcl = true"),
        ('tuner = "none"\nlearning_rate = 0', "learning_rate = 0: expected float > 0 or none"),
        ('name = "x"\ntuner = "none"', "a recipe is called as its file is"),
        ("tuner = ", "not valid TOML"),
        ("", "tuner: missing (text)"),
    ],
)  # fmt: skip
def test_wrong_adapters(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        catalogue.adapter(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value), "the file is named"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column: missing (text"),
        ('column = "a"\nkind = "rank"', "kind = \"rank\": expected 'classification'"),
        ('column = "a"\nmetrics = ["roc_auc"]', "metric = 'accuracy' is not one of metrics: roc_auc"),
        ('column = "a"\nmetrics = ["acuracy"]', 'metrics[0] = "acuracy": expected list of'),
        ('column = "a"\nmetrics = []', "metrics = []: expected list of"),
        ('column = "a"\nclasses = ["x", "x"]', "classes names one value twice: x, x"),
        ('column = "a"\nclasses = ["x"]', "classes = "),
        ('column = "a"\nseeds = [1, -1]', "seeds[1] = -1: expected list of int >= 0"),
        ('column = "a"\n[split]\nfractions = [0.7, 0.1, 0.1]', "expected three shares above 0 that sum to 1"),
        ('column = "a"\n[split]\nfractions = [0.7, 0.3]', "split.fractions"),
        ('column = "a"\n[head]\nhiden = [3]', "Did you mean 'head.hidden'"),
        ('column = "a"\nmax_length = 0', "max_length = 0: expected 'all' or int >= 1"),
        ('column = "a"\nreadout = "encoder"\nlayers = [0]', "leave them out"),
        ('column = "a"\nlayers = []', "name one layer or several"),
        ('column = "a"\nlayers = [0, 0]', "name one layer or several"),
        ('column = "a"\nitem_weights = true', "belongs to readout = 'attention'"),
        ('column = "a"\n[head]\nfit = "newton"\nhidden = [4]', "set hidden = []"),
    ],
)
def test_wrong_tasks(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        catalogue.task(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('column = "a"', "unknown setting 'column'"),
        ('loss = "hinge"', "loss = \"hinge\": expected 'softmax' or 'sampled' or 'bpr' or 'bce'"),
        ("negatives = 5", "negatives belong to the losses sampled, bpr and bce"),
        ('loss = "bpr"\nnegatives = 0', "negatives = 0: expected int >= 1"),
        ('metrics = ["hr@10"]', "metric = 'ndcg@10' is not one of metrics: hr@10"),
        ('metric = "coverage@10"', "metric = \"coverage@10\": expected 'hr@5'"),
        ('item_features = ["a", "a"]', "item_features names one value twice: a, a"),
        ("[target_items]\ncolumn = 'genres'", "target_items.value: missing"),
        ("[split]\nstratified = true", "unknown setting 'split.stratified'"),
        ('[head]\nfit = "newton"', "unknown setting 'head.fit'"),
        ('readout = "encoder"\nlayers = [0]', "leave them out"),
        ("positives = 0", "positives = 0: expected int >= 1"),
    ],
)
def test_wrong_ranking_tasks(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, f'kind = "ranking"\n{text}')
    with pytest.raises(SettingsError) as caught:
        catalogue.ranking_task(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_kind_of_a_task_decides_how_it_is_read(tmp_path: Path) -> None:
    ranking = write(tmp_path, 'kind = "ranking"\nloss = "bpr"\n[target_items]\ncolumn = "g"\nvalue = "x"')
    found = catalogue.any_task(ranking)
    assert isinstance(found, RankingTask)
    assert found == catalogue.ranking_task(ranking)
    assert found.num_negatives == 16
    assert found.target_items is not None
    assert catalogue.any_task("gender") == catalogue.task("gender")
    assert catalogue.ranking_task("cold_start").num_negatives == 0
    with pytest.raises(SettingsError, match="--source and --target"):
        catalogue.task("cold_start")
    with pytest.raises(SettingsError, match="kind = 'classification' predicts a label"):
        catalogue.ranking_task("gender")


def test_classes_are_text(tmp_path: Path) -> None:
    assert catalogue.task(write(tmp_path, 'column = "age"\nclasses = [1, 18, "25"]')).classes == (
        "1",
        "18",
        "25",
    )


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert catalogue.task("gender").column == "gender", "the catalogue is found from any folder"
    assert catalogue.adapter(write(tmp_path, 'tuner = "none"', "own.toml").name).name == "own"
    for wrong in ("../adapters/serial", "Serial", ""):
        with pytest.raises(SettingsError, match=r"unknown adapter .* Known: biases, .*, none, .* serial, "):
            catalogue.find("adapters", wrong)
    with pytest.raises(SettingsError, match=r"absent\.toml: there is no such task file"):
        catalogue.find("tasks", "absent.toml")
    with pytest.raises(SettingsError, match="unknown catalogue 'task'"):
        catalogue.names("task")


def test_a_wheel_has_its_recipes_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "peterrec"
    (package / "recipes" / "tasks").mkdir(parents=True)
    write(package / "recipes" / "tasks", 'column = "x"', "city.toml")
    monkeypatch.setattr(catalogue, "__file__", str(package / "catalogue.py"))
    assert catalogue.names("tasks") == ["city"]
    assert catalogue.task("city").column == "x"
