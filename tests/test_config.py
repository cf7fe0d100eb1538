"""The configuration: composition, defaults, and every wrong input in words."""

import re
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import MISSING, OmegaConf

from stable_ssl.config import ConfigError, Model, complete, load_config, recipes
from stable_ssl.methods import METHODS, method_class
from stable_ssl.methods.simclr import SimCLR, SimCLRConfig
from stable_ssl.schema import beyond
from stable_ssl.secrets import to_yaml
from tests.conftest import REPOSITORY


def test_the_five_groups_have_their_defaults_and_no_effects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = complete({})
    groups = [name for name, value in config.items() if OmegaConf.is_config(value)]
    assert groups == ["data", "model", "optim", "hardware", "log"]
    found = config.optim.lr, config.hardware.seed, config.log.resume
    assert found == (0.1, 0, "auto")
    assert complete({}) == config
    assert list(tmp_path.iterdir()) == []


def test_overrides_as_on_the_command_line():
    config = load_config("simclr", ["++optim.lr=2", "optim.epochs=3"])
    assert config.optim.lr == 2.0
    assert config.optim.epochs == 3
    assert config.data.train.dataset.name == "digits"


def test_a_new_group_is_the_users_own():
    assert load_config("simclr", ["+mine.a=3"]).mine.a == 3


@pytest.mark.parametrize("recipe", recipes())
def test_every_shipped_recipe_composes(recipe):
    made = load_config(recipe)
    assert made.data.train is not None
    if (method := made.model.get("name")) in METHODS:
        made = complete(made, method_class(method).model_config)
    assert not [*beyond(made, made.optim.epochs or 1)]


@pytest.mark.parametrize("method", METHODS)
def test_the_head_of_a_recipe_says_what_to_tune_first(method):
    recipe = REPOSITORY / "runs" / "configs" / f"{method}.yaml"
    head = recipe.read_text().partition("defaults:")[0]
    tune = " ".join(head.partition("#   tune ")[2].replace("#", " ").split())
    keys = re.findall(r"(?:optim|model|data)(?:\.\w+)+", tune)
    assert len(tune.split("; ")) == 3 and len(set(keys)) >= 3, tune
    made = complete(load_config(method), method_class(method).model_config)
    assert [k for k in keys if OmegaConf.select(made, k, default="-") == "-"] == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["++optim.lrr=2"], ["optim.lrr", "did you mean 'lr'"]),
        (["optim.lrr=2"], ["optim.lrr", "did you mean 'lr'"]),
        (["optim.lr=abc"], ["optim.lr=abc must be a number"]),
        (["++optim.lr=abc"], ["optim.lr=abc must be a number"]),
        (["++mine.size=???"], ["mine.size has no value", "add mine.size=..."]),
        (["++optim.lr=-1"], ["optim.lr=-1", "at least 0"]),
        (["++optim.grad_max_norm=0"], ["optim.grad_max_norm=0", "more than 0"]),
        (["optim.momentum=1.5"], ["optim.momentum=1.5", "at most 1"]),
        (["data=nosuch"], ["nosuch", "digits"]),
        (["data=digit"], ["did you mean 'digits'"]),
        (["++optim.steps=3"], ["optim.epochs=", "contradicts optim.steps=3", "null"]),
        (["data.batch_size_per_gpu=3"], ["contradicts", "batch_size_per_gpu=3"]),
        (["++optimm.lr=3"], ["optimm", "did you mean 'optim'"]),
        (["++log.eval.knn.kk=3"], ["log.eval.knn.kk", "did you mean 'k'"]),
        (["hardware.precision=bf16"], ["bf16", "did you mean 'bfloat16'"]),
        (["optim.scheduler.name=cosin"], ["cosin", "did you mean 'cosine'"]),
        (["mode=traim"], ["mode=traim", "validate, test"]),
        (["data=null"], ["found null for a group", "data=digits", "data.val=null"]),
        (["data.train=digits"], ["data.train=digits is no mapping", "dataset: {name"]),
        (["data.val.dataset=digits"], ["data.val.dataset=digits", "{name: digits}"]),
        (["model=3"], ["model=3 is no mapping", "{name: simclr}"]),
        (["optim.scheduler=cosine"], ["scheduler=cosine must be a mapping of name"]),
        (["optim.betas=[0.9]"], ["optim.betas=[0.9] must have 2 elements"]),
        (["optim.betas=[2,3]"], ["optim.betas=[2.0, 3.0] must be less than 1"]),
        (["optim.scheduler.gamma=0.2"], ["gamma=0.2", "cosine", "(step would)"]),
        (["optim.scheduler.milestones=[3]"], ["milestones=[3.0]", "(step would)"]),
        (["optim.scheduler.power=2"], ["power=2.0", "(polynomial would)"]),
        (
            ["optim.scheduler.name=constant", "optim.scheduler.min_lr=0.1"],
            ["min_lr=0.1", "constant does not read it", "cosine, polynomial, step"],
        ),
        (["log.eval.few_labels=[0]"], ["log.eval.few_labels=['0']", "like 10 or 1%"]),
        (["log.eval.few_labels=[2,-1]"], ["must be like 10 or 1%"]),
        (["log.eval.few_labels=[a]"], ["must be like 10 or 1%"]),
        (["log.eval.offline.lrs=[]"], ["offline.lrs=[] must have an element"]),
        (["log.eval.few_labels=[0.0%]"], ["must be like 10 or 1%"]),
        (["hardware.gpus=0", "hardware.accelerator=gpu"], ["gpus=0 contradicts"]),
        (["hardware.gpus=1", "hardware.accelerator=cpu"], ["gpus=1 contradicts"]),
        (["hardware.gpus=1.5"], ["hardware.gpus=1.5 is neither a count"]),
        (["hardware.gpus=true"], ["hardware.gpus=True is neither"]),
        (["hardware.gpus=[0.5]"], ["hardware.gpus=[0.5] is neither"]),
        (["hardware.gpus={a: 1}"], ["hardware.gpus={'a': 1} is neither"]),
        (["hardware.gpus=-2"], ["hardware.gpus=-2 is neither"]),
        (["optim.lr=1=2"], ["the override optim.lr=1=2 cannot be read; mismatched"]),
        (["optim.lr"], ["the override optim.lr cannot be read; missing EQUAL"]),
        (["optim.lr=int(a)"], ["optim.lr=int(a) cannot be read", "invalid literal"]),
        (["optim.lr=1,2"], ["optim.lr=1,2", "--multirun"]),
    ],
)
def test_wrong_input_is_refused_in_words(overrides, words):
    with pytest.raises(ConfigError) as error:
        load_config("simclr", overrides)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


GROUPS = ("optim", "log", "hardware", "log.eval", "log.checkpoint", "log.export")


@pytest.mark.parametrize("group", ["model", *GROUPS])
def test_a_group_that_is_null_is_refused(group):
    said = f"^{group}=null, and it cannot be null|^{group}=null must be a mapping of"
    with pytest.raises(ConfigError, match=said):
        load_config("simclr", [f"{group}=null"])


@pytest.mark.parametrize("group", ["data", "model", *GROUPS[:3]])
def test_a_group_of_a_mapping_that_is_null_is_refused(group, tiny):
    with pytest.raises(ConfigError, match=f"^{group}=null"):
        tiny({group: None})


@pytest.mark.parametrize("found", ["simclr", 3, ["optim.lr=2"], {3: 4}, {None: 4}])
def test_what_is_no_configuration_is_refused(found, tiny):
    with pytest.raises(ConfigError, match="found|key type"):
        tiny(found)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: load_config("nosuch"),
        lambda: load_config("simclr", ["data=nosuch"]),
        lambda: load_config("simclr", ["optim.lr=1=2"]),
        lambda: load_config("simclr", ["optim.lr=abc"]),
        lambda: load_config("simclr", ["optim.lrr=2"]),
        lambda: load_config("simclr", ["model=3"]),  # refused by a dataclass
        lambda: SimCLR({"optim": {"lr": "abc"}}),
        lambda: SimCLR({"model": {"temperatur": 1}}),
        lambda: SimCLR({"log": None}),
    ],
)
def test_an_error_in_python_is_one_short_traceback_of_this_library_alone(wrong):
    with pytest.raises(ConfigError) as caught:
        wrong()
    text = "".join(traceback.format_exception(caught.value))
    assert text.count("Traceback") == 1
    assert "site-packages/hydra" not in text and "omegaconf" not in text


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Return the file of a recipe, from the current folder."""
    monkeypatch.chdir(tmp_path)
    file = Path("configs/mine.yaml")
    file.parent.mkdir()
    file.write_text("defaults: [simclr, _self_]\noptim: {lr: 7}\n")
    return file


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        lambda file: (str(file),),
        lambda file: (file,),
        lambda file: ("mine", [], str(file.parent)),
        lambda file: ("mine.yaml", [], file.parent),
        lambda file: ("mine", (), [file.parent]),
        lambda file: (file, "optim.epochs=3"),
    ],
)
def test_a_recipe_is_found_by_its_path_or_in_one_folder(recipe, arguments, absolute):
    file = recipe.absolute() if absolute else recipe
    assert load_config(*arguments(file)).optim.lr == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mine",), "no recipe 'mine'; give its folder by folders=.*or its file's"),
        (("configs/mine",), "no recipe 'configs/mine'; give its folder by folders="),
        (("configs/my.yaml",), "no recipe 'configs/my'; give its folder by folders="),
        (("mime", [], "configs"), "no recipe 'mime' in configs;.*did you mean 'mine'"),
        (("mine", [], "config"), "no folder of recipes at config; folders=.* start"),
        (("mine", [], 3), "found folders=3; write a list, .'configs'."),
        (("simclr", 3), "found overrides=3; write a list, .'optim.lr=2'."),
        (("simclr", {"optim.lr": 3}), "found overrides={'optim.lr': 3}; write a list"),
        (("simclr", [3]), r"found overrides=\[3\]; write a list"),
    ],
)
def test_a_recipe_that_is_not_found_is_said_where(recipe, arguments, words):
    with pytest.raises(ConfigError, match=words):
        load_config(*arguments)


def test_what_a_recipe_turns_off_is_turned_on_by_a_key_of_it():
    for key in ("log.eval.linear.lr=0.1", "log.eval={linear: {lr: 0.1}}"):
        on = load_config("supervised", [key])
        assert on.log.eval.linear.lr == 0.1 and on.log.eval.linear.optimizer == "adamw"


def test_what_a_recipe_turns_off_is_turned_on_by_its_keys():
    for override in ("linear.lr=0.1", "linear={lr: 0.1}"):
        on = load_config("supervised", [f"log.eval.{override}"])
        assert on.log.eval.linear == {
            "optimizer": "adamw",
            "lr": 0.1,
            "weight_decay": 0,
        }
    null = ["log.pictures=null", "log.pictures.every_n_epochs=5"]
    with pytest.raises(ConfigError, match="is null; .*pictures={every_n_epochs: ...}"):
        load_config("simclr", null)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optim.scheduler.name=null", "optim.scheduler.power=2"],  # all switched off
        ["optim.scheduler.name=step", "optim.scheduler.milestones=[3]"],
        ["hardware.gpus=0", "hardware.accelerator=cpu"],
        ["hardware.gpus='0,1'"],
        ["hardware.gpus=[1]", "hardware.accelerator=gpu"],
        ["hardware.gpus=-1"],
    ],
)
def test_right_input_is_accepted(overrides):
    assert load_config("simclr", overrides)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ConfigError, match="did you mean 'simclr'.*base.*simclr"):
        load_config("simclrr")


def test_a_plain_mapping_is_completed_without_hydra():
    config = complete({"optim": {"lr": "0.5", "epochs": 2}})
    assert config.optim.lr == 0.5
    assert config.log.every_n_steps == 50
    with pytest.raises(ConfigError, match="optim.lrr"):
        complete({"optim": {"lrr": 1}})


def test_the_methods_dataclass_checks_model():
    assert (
        complete({"model": {"temperature": 1}}, SimCLRConfig).model.temperature == 1.0
    )
    assert complete({"model": {"mine": 1}}).model.mine == 1
    for wrong, words in [
        ({"temperatur": 1}, "model.temperatur .*did you mean 'temperature'"),
        ({"temperature": 0}, "model.temperature=0.0 must be more than 0"),
        ({"temperature": "hot"}, "model.temperature=hot must be a number"),
    ]:
        with pytest.raises(ConfigError, match=words):
            complete({"model": wrong}, SimCLRConfig)


@dataclass
class Referring(Model):
    """Keys whose defaults are not there yet."""

    width: int = MISSING
    depth: int = "${mine.depth}"


def test_a_default_that_is_not_there_yet_gives_way_to_a_value():
    given = {"model": {"width": 64, "depth": 2}, "mine": {"depth": 3}}
    assert complete(given, Referring).model.width == 64
    assert complete(given, Referring).model.depth == 2
    del given["model"]["depth"]
    assert complete(given, Referring).model.depth == 3


def test_a_run_name_of_digits_stays_a_name():
    assert load_config("simclr", ["log.run=20261120_154400_0"]).log.run == (
        "20261120_154400_0"
    )


def test_the_written_config_reproduces_the_run():
    config = load_config("simclr", ["optim.lr=0.3", "log.run=20261120_154400_0"])
    again = complete(OmegaConf.create(to_yaml(config)))
    assert OmegaConf.to_container(again, resolve=True) == OmegaConf.to_container(
        config, resolve=True
    )


def test_secrets_are_masked(monkeypatch):
    monkeypatch.setenv("API_KEY", "hush")
    config = load_config("simclr", ["+mine.api_key=${oc.env:API_KEY}", "+mine.keys=3"])
    assert config.mine.api_key == "hush"
    assert "hush" not in to_yaml(config)
    assert "keys: 3" in to_yaml(config)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("++lr=3", "lr is no key of the whole configuration; did you mean 'optim.lr'"),
        ("++batch_size=8", "did you mean 'data.batch_size'"),
        ("++optimizer.lr=3", "did you mean 'optim.optimizer'"),
    ],
)
def test_a_key_that_nobody_would_read_is_refused(override, words):
    with pytest.raises(ConfigError, match=words):
        load_config("simclr", [override])


def test_a_key_with_dots_in_yaml_is_refused():
    with pytest.raises(ConfigError, match="write nested ones: data: {batch_size: ...}"):
        complete({"data.batch_size": 64})
    assert complete({"mine": 4, "own": {"lr": 3}}).own.lr == 3
