"""Wrong input that only the data shows: refused by setup, in words, in one line."""

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from stable_ssl.config import ConfigError, complete
from stable_ssl.data.build import build_loaders
from stable_ssl.data.datasets import BUILDERS, digits
from stable_ssl.methods import method_class


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
            "train has images without labels.*eval.linear=null",
        ),
        (
            "simclr",
            [*FOLDERS, "data.num_classes=10", "log.eval.linear=null"],
            "bank has images without labels.*or a labelled data.bank",
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
    import re

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
        ("+data.train.in_order=false", "in_order=false .*no run could be repeated"),
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
