"""Wrong input of every kind: refused before training, in words, in one line."""

import dataclasses
import re
import sys

import pytest
import torch
from omegaconf import OmegaConf
from torchvision.transforms.functional import to_pil_image

import stable_ssl
from stable_ssl import commands
from stable_ssl.config import (
    Config,
    ConfigError,
    Model,
    Schedule,
    complete,
    load_config,
)
from stable_ssl.data.build import build_loaders
from stable_ssl.data.datasets import BUILDERS, build_dataset, digits
from stable_ssl.methods import METHODS, method_class

# --- what only the data shows ---------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    """Return folders of digits: `known` by class, `unknown` without classes."""
    data = digits(subset="val")
    for i in range(64):
        image, label = data[i]
        for folder in (f"known/{label}", "unknown"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            to_pil_image(image).save(tmp_path / folder / f"{i}.png")
    return tmp_path


UNKNOWN = "{name: image_folder, root: unknown, subset: null, labelled: false}"
KNOWN = "{name: image_folder, root: known, subset: null}"
ONE_VIEW = "data.train.dataset.image_transform=[]"
TWO_VIEWS = "data.train.dataset.image_transform=[[],[]]"
FOLDERS = [
    "data.root={images}",
    "data.batch_size=32",
    f"++data.train.dataset={UNKNOWN}",
    f"++data.val.dataset={KNOWN}",
    "data.test=null",
]


def refusal(config, images, method, overrides):
    """Return the message with which setup refuses."""
    overrides = [o.replace("{images}", str(images)) for o in overrides]
    with pytest.raises(ConfigError) as error:
        method_class(method)(config(method, *overrides)).setup()
    return str(error.value)


@pytest.mark.parametrize(
    ("method", "overrides", "words"),
    [
        ("simclr", ["data.num_classes=5"], "num_classes=5, but .* labels up to 9"),
        (
            "supervised",
            ["data.num_classes=5", "log.eval.knn=null", "log.monitor=null"],
            "data.num_classes=5, but .* has labels up to 9; set it to 10",
        ),
        (
            "simclr",
            [*FOLDERS, "data.num_classes=10"],
            "train has no labels.*eval.linear=null",
        ),
        (
            "simclr",
            [*FOLDERS, "data.num_classes=10", "log.eval.linear=null"],
            "bank has no labels.*or a labelled data.bank",
        ),
        ("supervised", [*FOLDERS, "log.monitor=null"], "Supervised found no labels in"),
        ("supervised", [*FOLDERS, "data.val=null", "log.monitor=null"], "no labels"),
        (
            "supervised",
            [*FOLDERS, "data.num_classes=10", "log.eval.knn=null", "log.monitor=null"],
            "Supervised found no labels in the train data",
        ),
        ("simclr", [ONE_VIEW], "image_transform makes views: 1, and SimCLR needs 2"),
        ("supervised", [TWO_VIEWS], "makes views: 2, and Supervised needs 1"),
        ("simclr", ["log.monitor=val/knn_ac1"], "did you mean 'val/knn_acc1'"),
        ("simclr", ["data.val=null"], "log.monitor=val/knn_acc1, but .* no val"),
        ("simclr", ["log.eval.knn=null"], "log.eval.knn=null turns it off"),
        ("simclr", ["data.test=null", "mode=test"], "mode=test needs data.test"),
        ("simclr", ["optim.optimizer=adamx"], "^optim.optimizer=adamx is neither"),
        ("simclr", ["log.eval.linear.optimizer=adamx"], "^log.eval.linear.optimizer="),
        ("simclr", ["optim.groups=[head]"], "found head, expected {pattern"),
        ("simclr", ["optim.groups=[{pattern: head}]"], "head finds no trainable"),
        ("simclr", ["++model.projector=[]"], "mlp found widths"),
        ("simclr", ["++model.projector=[0]"], "model.projector=.0. must be at least 1"),
        ("simclr", ["model.backbone.name=convnt"], "did you mean 'convnet'"),
        ("simclr", ["++model.backbone.width=wide"], "width=wide, expected"),
        ("simclr", ["++model.backbone.width=0"], "width=0, expected"),
        ("simclr", ["++model.backbone.in_channels=x"], "in_channels=x, expected"),
        ("simclr", ["++model.backbone.pretrained=7"], "pretrained=7, expected"),
        ("simclr", ["optim.scheduler.min_lr=3"], "min_lr=3.0 is above"),
        ("simclr", ["optim.epochs=null"], "needs optim.epochs or optim.steps; set one"),
        ("simclr", ["optim.steps_per_epoch=99"], "steps_per_epoch=99"),
    ],
)
def test_setup_refuses_in_words(config, images, method, overrides, words):
    message = refusal(config, images, method, overrides)
    assert re.search(words, message), message
    assert "\n" not in message


def test_data_without_labels_trains_without_them(config, images):
    off = ["log.eval.linear=null", "log.eval.knn=null", "log.monitor=null"]
    overrides = [o.replace("{images}", str(images)) for o in (*FOLDERS, *off)]
    trainer = method_class("simclr")(config("simclr", "optim.epochs=1", *overrides))
    trainer.run()
    assert trainer.step == 2


SAMPLER = "{_target_: torch.utils.data.SubsetRandomSampler, indices: [1, 2, 3]}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"+data.train.sampler={SAMPLER}", "the train split has 3 samples"),
        ("+data.train.in_order=false", "in_order=false.*no run could be repeated"),
        ("data.labelled=foo", "data.labelled=foo is not a train loader"),
        ("log.eval.every_n_steps=2.5", "every_n_steps=2.5 must be a whole number"),
    ],
)
def test_what_would_change_or_end_a_run_later_is_refused(config, override, words):
    with pytest.raises(ConfigError, match=words):
        method_class("simclr")(config("simclr", override)).setup()


def test_a_split_without_samples_is_refused(config, monkeypatch):
    def nothing(subset=None, root=""):
        return digits(subset="val").subset([])

    monkeypatch.setitem(BUILDERS, "nothing", nothing)
    empty = "data.val={dataset: {name: nothing}}"
    with pytest.raises(ConfigError, match="has no samples; mend it, or .* null"):
        method_class("simclr")(config("simclr", empty)).setup()


def test_a_batch_of_fewer_images_than_processes_is_refused(config, monkeypatch):
    monkeypatch.setattr("stable_ssl.distributed.world_size", lambda: 2)
    made = complete(config("simclr", "data.eval_batch_size=1"))
    with pytest.raises(ConfigError, match="data.eval_batch_size to 2 or more"):
        build_loaders(made, torch.device("cpu"))


# --- figures that would be called by another name -------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("few_labels=[2,1000]", "few_labels=1000, but class 2 has 113; use at most th"),
        ("few_labels=[114]", "few_labels=114, but class 2 has 113"),
        ("few_labels=[0.1%]", "few_labels=0.1% is less than one of the 113 .* 0.885% "),
        ("knn.k=1198", "knn.k=1198, but the bank has 1,197 images; use at most that"),
        (
            "offline={in_fit: true, held_out: 0.0001}",
            "offline.held_out=0.0001 of the bank's 1,197 images is 0; hold out one",
        ),
        (
            "offline={in_fit: true, held_out: 0.9999}",
            "offline.held_out=0.9999 of the bank's 1,197 images is 1,197; .* not all",
        ),
    ],
)
@pytest.mark.parametrize("fast_dev_run", [False, True])
def test_what_the_bank_does_not_have_is_refused(config, override, words, fast_dev_run):
    made = config("simclr", f"log.eval.{override}", f"fast_dev_run={fast_dev_run}")
    with pytest.raises(ConfigError, match=f"^log.eval.{words}"):
        method_class("simclr")(made).setup()


@pytest.mark.parametrize(
    "overrides",
    [
        ["log.eval.few_labels=[113,0.5%]", "log.eval.knn.k=1197"],
        ["log.eval.few_labels=[1000]", "data.test=null"],  # none is measured
        ["log.eval.offline.held_out=0.0001"],  # in mode=test alone
        ["fast_dev_run=true", "log.eval.few_labels=[10]", "log.eval.knn.k=500"],
    ],
)
def test_what_the_bank_has_is_measured(config, overrides):
    trainer = method_class("simclr")(config("simclr", *overrides))
    trainer.setup()
    trainer.test()
    trainer.cleanup()


def test_a_bank_that_does_not_tell_is_counted_once_it_was_read(config, monkeypatch):
    class Untold(torch.utils.data.Dataset):
        num_classes = 10

        def __init__(self, root, subset):
            self.digits = digits(subset=subset)

        def __len__(self):
            return len(self.digits)

        def __getitem__(self, index):
            return self.digits[index]

    monkeypatch.setitem(BUILDERS, "untold", Untold)
    untold = [f"data.{split}.dataset.name=untold" for split in ("train", "val", "test")]
    small = ["log.eval.few_labels=[114]", "++model.backbone.width=4"]
    trainer = method_class("simclr")(config("simclr", *untold, *small))
    trainer.setup()
    with pytest.raises(ConfigError, match="few_labels=114, but class 2 has 113"):
        trainer.test()
    trainer.cleanup()


@pytest.mark.parametrize("k", [4, 5])
def test_top_five_of_fewer_neighbours_is_no_figure(config, k):
    off = ["log.eval.linear=null", f"log.eval.knn.k={k}"]
    trainer = method_class("simclr")(config("simclr", *off))
    trainer.setup()
    trainer.validate()
    assert ("val/knn_acc5" in trainer.metrics) is (k == 5)
    trainer.cleanup()


def test_a_share_that_leaves_classes_out_is_said(images):
    node = {"name": "image_folder", "subset": "val", "val_size": 0.06}
    with pytest.warns(
        UserWarning, match=r"leave \d of 10 classes out of val, \d among"
    ):
        build_dataset({**node, "root": "known"}, str(images))


# --- what nobody will measure ---------------------------------------------------------


class Margin(stable_ssl.Evaluator):
    metrics = {"margin": stable_ssl.Metric("margin")}

    def __call__(self, split):
        yield "margin", 1.0


OF_TEST = f"++log.eval.own={{_target_: {__name__}.Margin, splits: [test]}}"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["log.monitor=val/knn_ac1"], "did you mean 'val/knn_acc1'"),
        (
            ["log.monitor=val/margin", OF_TEST],
            "own is asked about test only; add val",
        ),
        (["log.monitor=val/knn_acc5", "log.eval.knn.k=3"], "top 5 of so few"),
        (["log.early_stopping={patience: 3, monitor: train/loss}"], "name one of val"),
    ],
)
def test_a_monitor_that_never_comes_is_refused_by_setup(config, overrides, words):
    with pytest.raises(ConfigError, match=words):
        method_class("simclr")(config("simclr", *overrides)).setup()


def test_a_metric_of_train_waits_for_its_first_row(config):
    rows = ["log.every_n_steps=100", "log.eval.untrained=true", "++model.projector=[8]"]
    trainer = method_class("simclr")(config("simclr", "log.monitor=train/loss", *rows))
    assert trainer.run() == trainer.metrics["train/loss"]


# --- values that are no values --------------------------------------------------------


def keys_of(cls, at=""):
    """Yield (path, field) of the keys of a dataclass and of those in it."""
    for f in dataclasses.fields(cls):
        made = f.default_factory() if callable(f.default_factory) else None
        if dataclasses.is_dataclass(made):
            yield from keys_of(type(made), f"{at}{f.name}.")
        else:
            yield f"{at}{f.name}", f


KEYS = [*keys_of(Config), *keys_of(Schedule, "optim.scheduler.")]
KEYS = {path: f for path, f in KEYS if path not in ("model", "optim.scheduler")}


def kinds(f):
    """Return what a field's type is made of: {"int", "None"}."""
    return set(str(f.type).replace("[", " | ").replace("]", "").split(" | "))


def of_kind(kind):
    """Return the keys of the configuration whose type says so."""
    return [path for path, f in KEYS.items() if kind in kinds(f)]


def nested(path, value):
    """Return a value under a dotted key, as a mapping."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize("path", of_kind("bool"))
def test_a_switch_is_true_or_false(path):
    unset = [] if "None" in kinds(KEYS[path]) else [None]
    for wrong in (2, -1, 0, "1", 0.5, [True], *unset):
        with pytest.raises(ConfigError, match=f"{path}=.* must be true or false"):
            complete(nested(path, wrong))
    assert complete(nested(path, "yes")) == complete(nested(path, True))


def test_a_switch_is_read_as_it_was_given(config):
    with pytest.raises(ConfigError, match="^fast_dev_run=2 must be true or false$"):
        config("simclr", "fast_dev_run=2")


@pytest.mark.parametrize("path", of_kind("int"))
def test_a_whole_number_is_one_that_can_be_counted_to(path):
    value = [10**23] if "list" in kinds(KEYS[path]) else 10**23
    with pytest.raises(ConfigError, match=rf"{path}=\[?1000.* must be at most"):
        complete(nested(path, value))


@pytest.mark.parametrize("path", of_kind("float"))
@pytest.mark.parametrize("number", [float("nan"), float("inf"), 10**400])
def test_a_number_is_finite_unless_its_key_says_otherwise(path, number):
    listed = "list" in kinds(KEYS[path])
    given = nested(path, [number] * 2 if listed else number)
    if number == float("inf") and KEYS[path].metadata.get("high") == number:
        assert complete(given)
    else:
        with pytest.raises(ConfigError, match=f"{path}="):
            complete(given)


PATHS = [path for path, f in KEYS.items() if "path" in f.metadata]


@pytest.mark.parametrize("path", [*PATHS, "dataset.root", "dataset.split_file"])
@pytest.mark.parametrize("url", ["s3://bucket/a", "https://host/a", "file:///a"])
def test_a_path_is_no_url(path, url):
    group, _, name = path.rpartition(".")
    with pytest.raises(ConfigError, match=f"{path}={url} is a URL; expected a path"):
        if group == "dataset":
            build_dataset({"name": "digits", name: url})
        complete(nested(path, url))


@pytest.mark.parametrize(
    "path",
    ["log.eval.few_labels", "log.tags", "log.api", "log.metrics", "optim.groups"],
)
def test_null_turns_a_list_or_mapping_off(path):
    assert not OmegaConf.select(load_config("simclr", [f"{path}=null"]), path)


def test_a_schedule_that_is_null_keeps_the_rate(config):
    trainer = method_class("simclr")(config("simclr", "optim.scheduler=null"))
    trainer.setup()
    assert trainer.config.optim.scheduler is None
    assert not trainer.schedulers
    trainer.cleanup()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.optimizer=null", "optim.optimizer must not be null"),
        ("log.eval.linear.optimizer=null", "eval.linear.optimizer must not be null"),
        ("optim.accumulate=10", "optim.accumulate=10, but an epoch .* is 9 batches"),
        ("hardware.processes=1000000", "hardware.processes=1000000 is too many"),
        ("hardware.threads=1000000", "hardware.threads=1000000 is too many"),
        ("data.num_workers=1000000", "num_workers=1000000 is too many"),
        ("+data.val.num_workers=1000000", "num_workers=1000000 is too many"),
        ("++model.projector=[100000000000]", "not enough memory .allocate"),
        ("data.num_classes=100000000000", "not enough memory .allocate"),
        ("optim.groups=[{pattern: ., lr: 1e999}]", "lr=inf, expected a number from 0"),
        ("hardware.gpus=9000000000", "hardware.gpus=9000000000 is neither a count"),
        ("optim.scheduler.warmup_epochs=1e308", "warmup_epochs=1e.308 must be at m"),
    ],
)
def test_what_no_machine_could_do_is_refused(config, monkeypatch, override, words):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(ConfigError, match=words) as error:
        method_class("simclr")(config("simclr", override)).run()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_machine_that_is_not_there_is_refused(plus):
    with pytest.raises(ConfigError, match="local=nosuch, but there is no folder local"):
        load_config("simclr", [f"{plus}local=nosuch"])


# --- what a training does not reach ---------------------------------------------------


@pytest.mark.parametrize(
    ("method", "overrides", "words"),
    [
        (
            "simclr",
            ["optim.lr=2", "optim.epochs=1", "optim.scheduler.warmup_epochs=5"],
            "optim.scheduler.warmup_epochs=5.0 is beyond the training, which ends after"
            " 1 epoch: the learning rate reaches 0.3556 instead of 2",
        ),
        (
            "simclr",
            ["optim.epochs=2", "optim.scheduler={name: step, milestones: [1,5]}"],
            "optim.scheduler.milestones=[1.0, 5.0] is beyond the training, which ends"
            " after 2 epochs",
        ),
        (
            "dino",
            ["optim.epochs=2", "++model.warmup_epochs=3"],
            "model.warmup_epochs=3 is beyond the training, which ends after 2 epochs",
        ),
    ],
)
def test_what_does_nothing_is_said(config, capsys, method, overrides, words):
    trainer = method_class(method)(config(method, *overrides))
    trainer.setup()
    trainer.cleanup()
    assert words in capsys.readouterr().out.splitlines()


# --- wrong command lines, made from the schema ----------------------------------------

GROUPS = sorted({path.rpartition(".")[0] for path in KEYS} - {"", "data"})


def wrong_values(f):
    """Yield what a key does not take, as written on the command line."""
    found, limits = kinds(f), f.metadata
    if "Any" not in found:
        optional = "None" in found or f.default_factory in (dict, list)
        empty = f.default_factory is not dataclasses.MISSING and not f.default_factory()
        if not (optional or empty):
            yield "null"
    elif limits.get("required"):
        yield "null"
    if found & {"list", "dict"}:
        yield from ("abc", "7")
        yield "{a: 1}" if "list" in found else "[1]"
        if found & {"int", "float"}:
            yield "[abc]"
    elif "Any" not in found:
        yield from ("{a: 1}", "[1]")
        if "bool" in found:
            yield from ("2", "-1", "abc")
        elif found & {"int", "float"}:
            yield from ("abc", "true")
    listed = "[{}]" if "list" in found else "{}"
    for bound, step in (("low", -1), ("above", 0), ("high", 1), ("below", 0)):
        if bound in limits and limits[bound] != float("inf"):
            yield listed.format(limits[bound] + step)
    if "choices" in limits or "pattern" in limits:
        yield listed.format("nosuch")
    if "path" in limits:
        yield "s3://bucket/folder"


def wrong_lines():
    """Yield (recipe, override, what the message names) for every key there is."""
    models = [("simclr", f"model.{path}", f) for path, f in keys_of(Model)]
    base = len(models)  # keys of every method
    for method in METHODS:
        own = dataclasses.fields(method_class(method).model_config)[base:]
        models += [(method, f"model.{f.name}", f) for f in own]
    for recipe, path, f in [*(("simclr", *pair) for pair in KEYS.items()), *models]:
        for value in wrong_values(f):
            yield recipe, f"++{path}={value}", path
        group, _, name = path.rpartition(".")
        if group and recipe != "multitask":
            yield recipe, f"++{path}{name[-1]}=1", f"{path}{name[-1]} is not a key"
        others = {"data", "optim", "hardware", "log"} - {group.partition(".")[0]}
        for other in sorted(o for o in others if f"{o}.{name}" not in KEYS)[:1]:
            yield recipe, f"++{other}.{name}=1", f"{other}.{name} is not a key"
    for group in GROUPS:
        yield from (("simclr", f"{group}={value}", group) for value in ("3", "[1]"))


VIEWS = "++data.train.dataset.image_transform"
OWN = "++log.eval.own={{_target_: stable_ssl.Evaluator, {}}}".format
OTHERS = [
    ("simclr", OWN("splits: 3"), "log.eval.own.splits=3"),
    ("simclr", OWN("splits: [[val]]"), "log.eval.own.splits=[['val']]"),
    ("simclr", OWN("in_fit: 2"), "log.eval.own.in_fit=2 must be true or false"),
    ("simclr", OWN("every_n_epochs: true"), "log.eval.own.every_n_epochs=True"),
    ("simclr", "data=[1]", "data=[1]"),
    ("simclr", "++optim.betas.x=3", "optim.betas.x=3"),
    ("simclr", "optim.lr=1,2", "optim.lr=1,2"),
    ("simclr", "local=nosuch", "local=nosuch"),
    ("simclr", "model.name=SimCRL", "did you mean 'simclr'"),
    ("simclr", "log.resume=/no/such/file", "log.resume=/no/such/file is not a file"),
    ("simclr", "optim.optimizer=adamx", "optim.optimizer=adamx is neither"),
    ("simclr", "++optim.scheduler.name=StepsLR", "did you mean 'StepLR'"),
    ("simclr", f"{VIEWS}=[{{name: blurr}}]", "no augmentation 'blurr'"),
    ("simclr", "data.train.dataset.name=digit", "did you mean 'digits'"),
]
LINES = [*OTHERS, *wrong_lines()]


@pytest.fixture
def refuse(tmp_path, monkeypatch, capfd):
    """Return a starter of command lines that must end with one message, and no run."""

    def fit(trainer):
        raise AssertionError("it trains")

    def run(recipe, override, named):
        code = 0
        try:
            commands.main(["-cn", recipe, override])
        except SystemExit as ended:
            code = ended.code
        except Exception as error:
            code = repr(error)
        out, err = capfd.readouterr()
        told = re.fullmatch(f"error: .*{re.escape(named)}.*\n", err)
        if code != 2 or out or not told or [*tmp_path.iterdir()]:
            return f"-cn {recipe} {override}: {code} {out}{err}"

    monkeypatch.setattr(stable_ssl.BaseTrainer, "fit", fit)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    return run


PARTS = 36  # of the lines, the first of which is fast
SLOW = [pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS)]


@pytest.mark.parametrize("part", [0, *SLOW])
def test_wrong_command_lines_of_every_key_end_with_one_message(refuse, part):
    lines = LINES[part::PARTS]
    assert len(lines) >= 40
    assert not [*filter(None, (refuse(*line) for line in lines))]
