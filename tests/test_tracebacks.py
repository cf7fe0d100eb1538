"""What would end in a traceback: one line in words, before training starts."""

import hashlib
import inspect
import os
import pickle
import re
import signal
from contextlib import nullcontext
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from stable_ssl import BaseTrainer
from stable_ssl.augment import OPS, View, build_ops
from stable_ssl.checkpoint import load, save
from stable_ssl.commands import launcher
from stable_ssl.config import ConfigError, complete, hydra_session
from stable_ssl.data import Loader, build_loaders
from stable_ssl.data.datasets import BUILDERS
from stable_ssl.methods import METHODS, method_class
from stable_ssl.secrets import masked
from stable_ssl.state import begin, completed

from .conftest import Tiny

# --- of the command line --------------------------------------------------------------
SHORT = [  # of what fails at the first step, at the latest
    *("optim.epochs=null", "optim.steps=1", "optim.scheduler.warmup_epochs=0"),
    *("log.eval.untrained=false", "log.eval.few_labels=[]", "log.pictures=null"),
    *("log.eval.every_n_epochs=null", "log.eval.test_at_end=false"),
    *("fast_dev_run=true", "log.run=run"),
]


@pytest.fixture
def said(capsys, tmp_path, monkeypatch):
    """Return a runner of a command line that gives the one line with which it ends."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, trainer=None, others=0):
        with pytest.raises(SystemExit) as end:
            launcher.start([*arguments, f"log.folder={tmp_path}/logs"], trainer)
        err = capsys.readouterr().err
        assert end.value.code == 2 and "Traceback" not in err, err
        lines = err.strip().splitlines()
        assert lines[-1].startswith("error: ") and len(lines) <= 1 + others, err
        return lines[-1]

    return run


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("model.name=os.system", "model.name: os.system acts on the machine"),
        ("model.name=torch.nn.Linear", "is no trainer; give a subclass"),
        ("model.name=stable_ssl.load_config", "is no trainer; give a subclass"),
        ("model.name=stable_ssl.BaseTrainer", "must define initialize_modules, forw"),
        ("model.name=3", "model.name is no text: 3"),
        ("model.name=[simclr]", "model.name is no text: .'simclr'."),
        ("-m hardware.seed=range(0,3),x", r"range\(0,3\),x is no sweep: .*; write the"),
        ("-m hardware.seed=1,range(0,3)", r"1,range\(0,3\) is no sweep: .*; write the"),
        ("-m hardware.seed=range(3,0)", r"range\(3,0\) is no sweep: it has no values"),
        ("-m hardware.seed=range(0,3,0)", r"range\(0,3,0\) is no sweep: range\(\) arg"),
        ("-m hardware.seed=range(0,a)", r"range\(0,a\) cannot be read; TypeError"),
        ("-m hardware.seed=nosuch(1,2)", "cannot be read; .*Unknown function"),
        ("-m data=glob(x*)", r"data=glob\(x\*\) is no sweep: it has no values"),
        ("-cn configs/mine.yaml", "no recipe 'configs/mine'; give its folder by"),
        ("-cn nosuch.yaml", "no recipe 'nosuch'; give its folder by"),
    ],
)
def test_a_command_line_that_cannot_be_meant_ends_in_one_line(said, overrides, words):
    assert re.search(words, said(*overrides.split()))


@pytest.mark.parametrize("trainer", [BaseTrainer, Tiny.forward, torch.nn.Linear, 3])
def test_a_script_that_launches_no_trainer_is_told(said, trainer):
    assert re.search("no trainer|must define", said(*SHORT, trainer=trainer))


def test_a_sweep_by_a_pattern_is_a_sweep(tmp_path):
    """glob(*) is the one kind of sweep that needs Hydra's search path."""
    line = ["-cn", "simclr", "-m", "data=glob(digits*)"]
    command = launcher.Command(line, None, None, None, tmp_path)
    with hydra_session():
        jobs = command._overrides_of_jobs()
    assert jobs == [[f"data=digits{end}"] for end in ("", "_few", "_rotation")]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (None, "this machine has no sbatch and no srun; start it where Slurm is"),
        ("echo 1>&2 no such partition; exit 1", "refused the jobs; .* no such partiti"),
    ],
)
def test_a_machine_without_slurm_is_told(said, tmp_path, monkeypatch, program, words):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun") if program else ():
        (folder / name).write_text(f"#!/bin/sh\n{program}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    line = said(*SHORT, "hydra/launcher=submitit_slurm", others=9)  # submitit prints
    assert re.search(words, line)


COLLATE = "++data.train.collate_fn"
SUBSET = "_target_: torch.utils.data.SubsetRandomSampler, indices: [9999, 1]"
PAIRS = "_target_: torch.utils.data.BatchSampler, sampler: [1, 2, 3], drop_last: false"
UNFIT = [  # a recipe, what is changed of it, and what is said
    ("simclr", "data.batch_size=1", "batch_size=1, and SimCLR needs 2 images a batch"),
    (
        "simclr",
        "data.batch_size=46 ++data.train.drop_last=false",
        "drop_last=false leaves a last batch of 1, and SimCLR needs 2",
    ),
    ("simclr", "model.backbone=null", "model.backbone.name=None; give a model's name"),
    ("simclr", "model.backbone=3", "model.backbone=3 is no backbone; write"),
    ("simclr", "model.backbone=true", "model.backbone=True is no backbone; write"),
    (
        "simclr",
        "model.backbone.name=resnet18 ++model.backbone.norm_layer=foo",
        "resnet18 cannot be built: TypeError: 'str' object is not callable",
    ),
    (
        "simclr",
        "model.backbone.name=resnet10t ++model.backbone.act_layer=foo",
        "resnet10t cannot be built: KeyError: 'foo'",
    ),
    (
        "simclr",
        "++model.backbone.in_channels=2",
        r"a model of 2 channels found images of 1, \[\d+, 1, 8, 8\]; remove",
    ),
    (
        "simclr",
        "model.backbone.name=vit_tiny_patch16_224",
        "a model for images of height 224 found 8; give model.backbone another size",
    ),
    (
        "simclr",
        "model.backbone.name=alexnet",
        "images are too small for the model, which has 64x1x1 left before a layer",
    ),
    ("multitask", "model.heads.rotation.out_features=3", "rotation: a label is 3"),
    ("multitask", "model.heads.supervised.out_features=3", "supervised: a label is"),
    ("multitask", "model.heads.rotation.scale=abc", "heads.rotation: could not conv"),
    ("multitask", "++model.heads.rotation=3", "heads.rotation: "),
    (
        "multitask",
        "++model.heads.rotation.loss={_target_: torch.nn.L1Loss}",
        "heads.rotation: RuntimeError: The size of tensor a",
    ),
    ("simclr", f"{COLLATE}={{_target_: no.Such}}", "cannot be imported: no module no"),
    (
        "simclr",
        f"{COLLATE}={{_target_: stable_ssl.data.RotationColate}}",
        "collate_fn of a loader node: .*; did you mean 'RotationCollate'",
    ),
    ("simclr", f"{COLLATE}={{_target_: os.sep}}", "os.sep cannot be called: it is a s"),
    ("simclr", f"{COLLATE}={{name: foo}}", "found None; write a dotted path"),
    ("simclr", f"{COLLATE}=3", "found a int, which has no __call__; name a class"),
    ("simclr", f"{COLLATE}={{_target_: builtins.int}}", "a int, which has no __call__"),
    (
        "simclr",
        f"{COLLATE}={{_target_: stable_ssl.data.RotationCollate}}",
        "RotationCollate found several views; it needs one view",
    ),
    (
        "simclr",
        "++data.train.sampler={_target_: builtins.int}",
        "sampler of a loader node: found a int, which has no __iter__ and __len__",
    ),
    (
        "simclr",
        f"data.batch_size=2 ++data.train.sampler={{{SUBSET}}}",
        "a SubsetRandomSampler, chose others than the samples 0 to 1196: .*9999",
    ),
    (
        "simclr",
        f"data.batch_size=2 ++data.train.sampler={{{PAIRS}, batch_size: 2}}",
        "a BatchSampler, chose others than the samples 0 to 1196",
    ),
    (
        "simclr",
        "++data.train.dataset={_target_: builtins.int}",
        "a int, which has no __len__ and __getitem__; name a torch dataset",
    ),
    (
        "simclr",
        "++optim.optimizer={_target_: builtins.dict} optim.weight_decay=0",
        "optim.optimizer=builtins.dict",
    ),
]


@pytest.mark.parametrize(("method", "overrides", "words"), UNFIT)
def test_a_run_that_cannot_begin_ends_in_one_line(said, method, overrides, words):
    overrides = re.split(r" (?=\S+=)", overrides)
    assert re.search(words, said("-cn", method, *SHORT, *overrides))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_one_image_trains_or_is_refused(config, method):
    keys = [key for key in SHORT if not key.startswith("log.run")]
    trainer = method_class(method)(config(method, "data.batch_size=1", *keys))
    try:
        trainer.run()
        assert trainer.step == 1
    except ConfigError as error:
        needs = trainer.min_batch
        assert f"{type(trainer).__name__} needs {needs} images a batch" in str(error)
        assert needs > 1


class OneValue(Tiny):
    """A batch norm of features that the method's class says nothing of."""

    def initialize_modules(self):
        self.layer = torch.nn.Sequential(
            torch.nn.Linear(64, 10), torch.nn.BatchNorm1d(10)
        )


def test_what_only_the_first_step_shows_is_said_in_words(config):
    with pytest.raises(
        ConfigError, match="batch norm found the shape .1, 10., one value"
    ):
        OneValue(config("base", *SHORT[:-1], "data.batch_size=1")).run()


class TooFewOutputs(Tiny):
    """A loss of its own, with fewer outputs than labels."""

    def compute_loss(self):
        views, labels = self.data
        return torch.nn.functional.cross_entropy(self(views[0])[:, :2], labels)


class NoMemory(Tiny):
    """A loss of its own, as where another process has filled the GPU."""

    def compute_loss(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        (TooFewOutputs, "a label is .*, and what predicts it has no such output"),
        (NoMemory, "not enough memory .allocate 2.00 GiB.; make data.batch_size smal"),
    ],
)
def test_what_torch_refuses_in_a_loss_of_ones_own_names_its_line(
    config, trainer, words
):
    with pytest.raises(ConfigError, match=rf"{words}.* \(test_tracebacks.py, line \d+"):
        trainer(config("base", *SHORT[:-1])).run()


def test_a_state_without_room_for_it_is_none_of_another_run(config, monkeypatch):
    def full(run, state):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    first = Tiny(config("base", "optim.epochs=1"))
    first.run()
    monkeypatch.setattr("stable_ssl.state.restore", full)
    with pytest.raises(ConfigError, match="^there is not enough memory"):
        Tiny(config("base", "optim.epochs=1")).run()


def test_an_error_of_ones_own_keeps_its_traceback(config):
    class Fails(Tiny):
        def compute_loss(self):
            raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="^my own mistake$"):
        Fails(config("base", *SHORT[:-1])).run()


# --- of the data ----------------------------------------------------------------------

ARGUMENTS = {  # of the ops that need some
    "random_resized_crop": {"size": 8},
    "resize": {"size": 8},
    "center_crop": {"size": 8},
    "rotation": {"degrees": 10},
    "shear": {"degrees": 10},
    "gaussian_blur": {"kernel_size": 3},
    "noise": {"std": 0.1},
    "normalize": {"mean": [0.5, 0.5], "std": [0.5, 0.5]},
    "erasing": {"value": [0.5, 0.5]},
    **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), {"amount": 0.1}),
}
CHANNELS = {  # that an op is made for, where not for any
    **dict.fromkeys(("normalize", "erasing"), {2}),
    **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), {1, 3}),
    **dict.fromkeys(("color_jitter", "grayscale"), {1, 3}),
}


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("name", OPS)
def test_an_op_takes_images_or_says_which_it_is_for(name, channels):
    rare = {"p": 0.0} if "p" in inspect.signature(OPS[name]).parameters else {}
    view = View(build_ops([{"name": name, **ARGUMENTS.get(name, {}), **rare}]))
    images, keys = torch.zeros(2, channels, 8, 8), torch.arange(2)
    if channels in CHANNELS.get(name, {channels}):
        assert view(images, keys).shape == images.shape
        return
    with pytest.raises(ConfigError, match=f"image_transform: .* {channels} channels: "):
        view(images, keys)


class Broken:
    """A transform of one's own with an error in it."""

    def __call__(self, image):
        return image.nothing


OWN = f"{{_target_: {__name__}.Broken}}"
TWO = "mean: [0.5, 0.5], std: [0.5, 0.5]"
TO_TENSOR = "{_target_: torchvision.transforms.ToTensor}"


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        (
            f"{{name: normalize, {TWO}}}",
            r"normalize.mean=\[0.5, 0.5\] for images of 1 ch",
        ),
        (
            "{name: gaussian_blur, kernel_size: 23}",
            "kernel_size=23 on images of 8 pixe",
        ),
        (
            f"{TO_TENSOR}, {{_target_: torchvision.transforms.Normalize, {TWO}}}",
            "Normalize refuses a Tensor: RuntimeError: output with shape",
        ),
        (
            "{_target_: torchvision.transforms.RandomCrop, size: 20}",
            r"RandomCrop refuses a Image: Required crop size \(20, 20\) is larger",
        ),
        (
            OWN,
            r"Broken refuses a Image: AttributeError: .* \(test_tracebacks.py, line",
        ),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_ops_that_do_not_fit_are_refused_before_training(config, split, ops, words):
    views = f"[[{ops}], [{ops}]]" if split == "train" else f"[{ops}]"
    override = f"++data.{split}.dataset.image_transform={views}"
    with pytest.raises(ConfigError, match=f"^data.{split}: image_transform: {words}"):
        method_class("simclr")(config("simclr", override)).setup()


def test_what_ops_make_of_the_channels_counts(config):
    """A model learns from views, not from the images of the files."""
    grey_to_rgb = (
        "[{_target_: torchvision.transforms.Grayscale, num_output_channels: 3}]"
    )
    overrides = [
        f"++data.{split}.dataset.image_transform={views}"
        for split, views in {
            "train": f"[{grey_to_rgb}, {grey_to_rgb}]",
            "val": grey_to_rgb,
            "test": grey_to_rgb,
        }.items()
    ]
    trainer = method_class("simclr")(config("simclr", *overrides, *SHORT[:-1]))
    trainer.run()
    assert trainer.config.model.backbone.in_channels == 3
    with pytest.raises(
        ConfigError, match="val has images of 1 channels, data.train of"
    ):
        method_class("simclr")(config("simclr", overrides[0])).setup()


class Numbered(Dataset):
    """64 images, the last with a label that is `wrong`."""

    num_classes = 2

    def __init__(self, wrong=None):
        self.wrong = wrong

    def __len__(self):
        return 64

    def __getitem__(self, index):
        image = torch.full((3, 8, 8), index, dtype=torch.uint8)
        last = index == len(self) - 1
        return image, self.wrong if last and self.wrong is not None else index % 2


class Ending(Numbered):
    """Images whose last ends the worker that reads it."""

    def __init__(self, end):
        super().__init__()
        self.end = end

    def __getitem__(self, index):
        if index == len(self) - 1 and get_worker_info() is not None:
            os._exit(3) if self.end is None else os.kill(os.getpid(), self.end)
        return super().__getitem__(index)


class Streamed(IterableDataset):
    num_classes = 2

    def __iter__(self):
        yield from (Numbered(wrong="a")[i] for i in range(64))


WRONG_LABELS = ["a", {"kind": 1}, object(), torch.zeros(3), (1, 2)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("wrong", WRONG_LABELS, ids=lambda w: type(w).__name__)
def test_labels_that_make_no_batch_are_said_by_workers_too(wrong, workers):
    loader = Loader(Numbered(wrong), [[]], batch_size=32, num_workers=workers)
    with pytest.raises(ConfigError, match="^the labels of the dataset make no batch"):
        list(loader)
    loader.close()


class Unlike(Numbered):
    """Whose last sample is other than an image and a label."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample if index < len(self) - 1 else self.wrong


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (None, r"Unlike\[63\] is a NoneType; a dataset returns \(image, label\)"),
        (
            torch.zeros(3),
            r"images of float32 \(3,\) and uint8 \(3, 8, 8\) do not stack; begin",
        ),
        (
            (torch.zeros(8, 8), 1),
            r"images of float32 \(8, 8\) and uint8 \(3, 8, 8\) do not",
        ),
        (([torch.zeros(3, 8, 8)] * 2, 1), r"samples with other numbers .*\(2, 0\)\]"),
        ((torch.zeros(3, 8, 8), 1, 2), r"samples with other numbers .*, \(1, 1\)\]"),
        (("a.png", 1), r"images of str and uint8 \(3, 8, 8\) do not stack; begin"),
    ],
)
def test_a_sample_that_is_none_is_said_by_workers_too(sample, words, workers):
    loader = Loader(Unlike(sample), [[]], batch_size=32, num_workers=workers)
    with pytest.raises(ConfigError, match=f"^{words}") as error:
        list(loader)
    assert "\n" not in str(error.value)
    loader.close()


def test_a_stream_says_it_in_words_too():
    loader = Loader(Streamed(), [[]], batch_size=32)
    with pytest.raises(ConfigError, match="^the labels of the dataset make"):
        list(loader)
    loader.close()


def test_what_cannot_be_sent_to_a_worker_is_named():
    dataset = Numbered()
    dataset.own = lambda x: x
    options = {"num_workers": 1, "multiprocessing_context": "spawn"}
    loader = Loader(dataset, [[]], batch_size=32, **options)
    with pytest.raises(ConfigError, match="cannot be sent to a data worker .*<lambda>"):
        list(loader)


def unchanged(image):
    return image


def own_op(sent):
    return (lambda image: image) if sent == "lambda_op" else unchanged


class Sent(Numbered):
    """Images with an attribute of each kind that can or cannot be sent."""

    num_classes = 2

    def __init__(self, sent):

        def local():
            pass

        super().__init__()
        lock = get_context("spawn").Lock()  # can be sent to a process that starts
        own = {"lambda": lambda x: x, "local": local, "file": None, "lock": lock}
        self.own, self.opens = own.get(sent), sent == "file"

    def __getitem__(self, index):
        if self.opens and self.own is None:
            self.own = open(
                __file__
            )  # as those do that open an archive when it is read
        return super().__getitem__(index)


UNSENT = ["lambda", "local", "lambda_op"]
HOW = ["spawn", "forkserver", "default", "fork", "none"]
# a file that is opened with the first sample is each worker's own
SENT = [(sent, how) for sent in ("lock", "file") for how in ("spawn", "fork", "none")]


@pytest.mark.parametrize(("sent", "how"), [*product(UNSENT, HOW), *SENT])
def test_what_cannot_be_sent_to_a_worker_is_said_when_loaders_are_built(
    config, monkeypatch, sent, how
):
    """Not the collate_fn, which is called here; and not if workers are copies."""
    monkeypatch.setattr("multiprocessing.get_start_method", lambda **_: "spawn")
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # for a worker that starts
    op = f"[{{_target_: {__name__}.own_op, sent: {sent}}}]"
    node = (
        f"dataset: {{_target_: {__name__}.Sent, sent: {sent}, image_transform: {op}}}"
    )
    node += f", num_workers: {int(how != 'none')}, batch_size: 32"
    node += f", collate_fn: {{_target_: {__name__}.own_op, sent: lambda_op}}"
    if how not in ("default", "none"):
        node += f", multiprocessing_context: {how}"
    keys = [f"++data.train={{{node}}}", "data.val=null", "data.test=null"]
    refused = sent in UNSENT and how not in ("fork", "none")
    words = (
        "^data.train: the dataset, or an op of its views, cannot be sent to a data w"
    )
    with pytest.raises(ConfigError, match=words) if refused else nullcontext():
        build_loaders(config("base", *keys), torch.device("cpu"))


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 1, "multiprocessing_context": "spoon"},
        {"num_workers": 0, "prefetch_factor": 3},
        {"num_workers": 0, "persistent_workers": True},
    ],
)
def test_what_torchs_loader_refuses_is_said_in_words(options):
    with pytest.raises(ConfigError, match="^a loader node: "):
        Loader(Numbered(), [[]], batch_size=32, **options)


@pytest.fixture
def no_handler():
    """Remove a handler that torch may have left from a loader of another test."""
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    left = signal.signal(signal.SIGCHLD, handler)
    assert left is signal.SIG_DFL  # torch's would raise in the middle of anything


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (
            signal.SIGKILL,
            "was ended by SIGKILL, .* memory, .* use fewer than num_workers=1",
        ),
        (signal.SIGSEGV, "was ended by SIGSEGV, most likely by a library"),
        (None, "ended with exit code 3; see what it printed, or .* num_workers=0"),
    ],
)
def test_the_end_of_a_worker_is_said_with_its_likely_cause(
    config, no_handler, end, words
):
    class Ends(Tiny):
        def initialize_data(self):
            loader = Loader(Ending(end), [[]], batch_size=32, num_workers=1, timeout=1)
            self.loaders, self.num_classes = {"train": loader}, 2
            self.train_loader = loader

        def initialize_modules(self):
            self.layer = torch.nn.Linear(192, 2)

    keys = ["log.eval.knn=null", "log.monitor=null", "log.eval.linear=null"]
    with pytest.raises(ConfigError, match=rf"^a data worker, pid \d+, {words}"):
        Ends(config("base", "optim.epochs=1", *keys)).run()


@pytest.mark.parametrize("kind", [dict, list, float])
def test_labels_that_are_no_numbers_of_classes_are_refused(config, monkeypatch, kind):
    def labelled(subset=None, root=""):
        class Kinds(Numbered):
            def __getitem__(self, index):
                image, label = super().__getitem__(index)
                others = {dict: {"kind": label}, list: [label, label]}
                return image, others.get(kind) or kind(label)

        return Kinds()

    monkeypatch.setitem(BUILDERS, "kinds", labelled)
    views = "image_transform: [[], []]"
    keys = [
        f"++data.train={{dataset: {{name: kinds, {views}}}}}",
        *("data.val=null", "data.test=null", "data.batch_size=32", "log.monitor=null"),
    ]
    with pytest.raises(
        ConfigError, match="train has labels of .*probe.* need one whole"
    ):
        method_class("simclr")(config("simclr", *keys)).setup()
    off = ["log.eval.knn=null", "log.eval.linear=null", *SHORT[:-1]]
    trainer = method_class("simclr")(config("simclr", *keys, *off))
    trainer.run()
    assert trainer.step == 1


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (lambda x, y: (x, {"digit": y}), "a batch has labels of the type dict, and"),
        (lambda x, y: {"image": x, "label": y}, "a batch is a dict, and"),
        (lambda x, y: [x], "a batch is a list, and"),
    ],
)
def test_batches_that_have_no_labels_for_the_evaluators_are_refused(
    config, batch, words
):
    batches = [batch(torch.rand(4, 1, 8, 8), torch.arange(4)) for _ in range(2)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)

    class Own(Tiny):
        def compute_loss(self):  # an own loss knows how its batches are made
            return self(torch.rand(4, 1, 8, 8)).square().mean()

    with pytest.raises(ConfigError, match=words):
        Own(config("base", "data.num_classes=10", *SHORT[:-1]), train=loader).run()


# --- of checkpoints -------------------------------------------------------------------


def rechecked(content):
    """Return bytes with the checksum that makes them a checkpoint of this library."""
    content += b"\0\0"
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:-2] + len(digest).to_bytes(2, "little") + digest


class Unknown:
    """A class that no checkpoint may hold."""


FOREIGN = [  # what others save
    [1, 2],
    torch.zeros(3),
    "weights",
    {},
    {"state_dict": {"w": torch.zeros(3)}, "epoch": 1, "global_step": 5},
    {"model": {"w": torch.zeros(3)}, "optimizer": {"state": {}}},
    {"modules": {}},
]
OTHERS = [None, 3, "x", [1], {"a": 1}, torch.zeros(2)]


def test_a_checkpoint_of_other_content_is_refused_in_words(config, tmp_path):
    """Whatever has the right checksum goes on, or ends in one line."""
    first = Tiny(config("base", "optim.epochs=1"))
    first.run()
    whole = load(first.run_dir / "ckpts" / "last.ckpt")
    path, said = tmp_path / "other.ckpt", []
    run = Tiny(config("base", "log.run=two"))
    run.setup()

    def filled(part):
        return masked(complete(part))

    def attempt(key):
        run.config.log.update({"resume": None, "load_from": None, key: str(path)})
        now = masked(run.config)
        try:
            begin(run, partial(completed, now=now, complete=filled))
        except ConfigError as error:
            assert "\n" not in str(error)
            said.append(str(error))
            return True
        return False

    for content in FOREIGN:
        save(path, content)
        assert attempt("resume") and attempt("load_from"), content
    for content in (pickle.dumps([1]), pickle.dumps(Unknown()), b"", b"PK\3\4" * 30):
        path.write_bytes(rechecked(content))
        assert attempt("resume") and attempt("load_from"), content
    unread = "best", "stopped", "patience"  # of a longer run
    unread += "trained", "groups"  # of a format that had none
    for name in whole.keys() - {"trainer", "lengths", "rows", "spectra"}:
        save(path, {key: value for key, value in whole.items() if key != name})
        assert attempt("resume") or name in unread, name
    for name in whole:
        for other in OTHERS:
            save(path, {**whole, name: other})
            attempt("resume")
            attempt("load_from") if name == "modules" else None
    save(path, whole)
    assert not attempt("resume")
    run.cleanup()
    assert len(said) > 100
