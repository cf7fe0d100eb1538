"""Exports: what is loaded again does what the model does, or nothing is written."""

import json

import pytest
import timm
import torch

from stable_ssl import BYOL, ConfigError, SimCLR, Supervised, commands
from stable_ssl.models import backbone
from stable_ssl.tools.export import ExportError, export

QUICK = ("optim.epochs=1", "log.eval.test_at_end=false", "log.pictures=null")
ALL = "log.export.types=[torchscript,torch_export,safetensors]"


def loaders(*shape):
    """Return a val split of one batch of random images."""
    return {"val": [(torch.rand(shape), torch.zeros(shape[0]))]}


class Named(list):
    """A loader whose dataset names its classes."""

    dataset = type("Photos", (), {"class_to_idx": {"cat": 0, "dog": 2}})


def leftovers(folder):
    return [path.name for path in folder.parent.glob(".deployment*")]


def test_a_run_ends_with_files_that_do_what_it_does(config):
    trainer = BYOL(config("byol", ALL, *QUICK))
    trainer.run()
    folder = trainer.run_dir / "deployment"
    facts = json.loads((folder / "model.json").read_text())
    assert facts["input"] == [1, 8, 8] and facts["step"] == trainer.step == 9
    assert facts["output"] == {"encoder": [128], "classifier": [10]}
    assert max(facts["difference"].values()) <= 1e-4 and not leftovers(folder)
    x = torch.rand(5, 1, 8, 8)
    trainer.eval(), trainer.evaluation.probe.eval()
    with torch.no_grad():
        features, logits = trainer(x), trainer.predict(x)
    for name, expected in (("encoder", features), ("classifier", logits)):
        script = torch.jit.load(folder / f"{name}.pt")
        graph = torch.export.load(folder / f"{name}.pt2").module()
        torch.testing.assert_close(script(x), expected)
        torch.testing.assert_close(graph(x), expected)
    held = {name.partition(".")[0] for name in script.state_dict()}
    assert held == {"backbone", "norm", "classifier"}  # no teacher, no projector
    from safetensors.torch import load_file

    weights = load_file(folder / "backbone" / "model.safetensors")
    own = trainer.backbone.state_dict()
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)


def test_timm_and_hugging_face_folders_load_the_backbone(config):
    network = "++model.backbone={name: resnet10t, provider: timm}"
    types = "log.export.types=[safetensors]"
    normal = "[{name: normalize, mean: [0.5], std: [2.0]}]"
    normal = f"++data.val.dataset.image_transform={normal}"
    keys = network, types, normal, *QUICK, "fast_dev_run=true"
    trainer = SimCLR(config("simclr", *keys))
    seen = {}
    trainer.cleanup = lambda: None  # keeps the temporary folder of a fast_dev_run
    try:
        trainer.run()
        folder = trainer.run_dir / "deployment" / "backbone"
        seen = json.loads((folder / "config.json").read_text())
        x = torch.rand(3, 1, 8, 8)
        trainer.eval()
        from safetensors.torch import load_file

        by_name = timm.create_model("resnet10t", num_classes=0, in_chans=1)
        by_name.load_state_dict(load_file(folder / "model.safetensors"))
        local = timm.create_model(f"local-dir:{folder}", pretrained=True)
        for model in (by_name, local):
            torch.testing.assert_close(model.eval()(x), trainer(x))
    finally:
        type(trainer).cleanup(trainer)
    assert seen["architecture"] == "resnet10t" and seen["num_classes"] == 0
    known = seen["pretrained_cfg"]
    assert known["input_size"] == [1, 8, 8] and "tag" not in known
    assert (known["mean"], known["std"]) == ([0.5], [2.0])


def test_the_command_exports_the_checkpoint_it_is_given(config, capsys):
    trainer = Supervised(config("supervised", *QUICK, "log.checkpoint.every_n_steps=4"))
    trainer.run()
    folder = trainer.run_dir / "deployment"
    assert not folder.exists()  # off unless asked for
    before = (trainer.run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(SystemExit) as end:
        commands.main(["export", str(trainer.run_dir), "--types", "torch_export"])
    assert not end.value.code, capsys.readouterr().err
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["classifier.pt2", "encoder.pt2", "model.json"]
    assert json.loads((folder / "model.json").read_text())["step"] == 9
    earlier = trainer.run_dir / "ckpts" / "e000_s000008.ckpt"
    with pytest.raises(SystemExit) as end:
        commands.main(["export", str(earlier)])
    assert not end.value.code, capsys.readouterr().err
    assert json.loads((folder / "model.json").read_text())["step"] == 8
    assert (folder / "classifier.pt").exists()
    assert not (folder / "classifier.pt2").exists()  # of other weights
    assert (trainer.run_dir / "metrics.jsonl").read_bytes() == before
    with pytest.raises(SystemExit) as end:
        commands.main(["export", str(trainer.run_dir / "ckpts")])
    assert end.value.code == 2
    assert "neither a run folder nor a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["torchscript", "torch_export", "safetensors"])
def test_the_vit_is_exported_for_batches_of_any_size(kind, tmp_path):
    vit = backbone({"name": "vit", "dim": 16, "depth": 1, "heads": 2, "image_size": 8})
    folder = tmp_path / "deployment"
    export({"encoder": vit}, [vit], loaders(4, 3, 8, 8), [kind], folder, {})
    facts = json.loads((folder / "model.json").read_text())
    assert len(facts["difference"]) == 1 and facts["output"] == {"encoder": [16]}


class Draws(torch.nn.Module):
    """A linear layer whose output is never twice the same."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) + torch.rand(3)


class Stuck(Draws):
    """It knows one size of a batch alone."""

    def forward(self, x):
        return self.layer(x) * torch.arange(1.0, 1.0 + int(x.shape[0]))[:, None]


@pytest.mark.parametrize("kind", ["torchscript", "torch_export", "safetensors"])
@pytest.mark.parametrize(
    ("model", "words"), [(Draws(), "differs from the model"), (Stuck(), "encoder.pt")]
)
def test_a_file_that_does_something_else_is_an_error(model, words, kind, tmp_path):
    if isinstance(model, Stuck) and kind == "safetensors":
        return  # weights alone: the model is as it was
    folder = tmp_path / "deployment"
    folder.mkdir()
    (folder / "encoder.pt").write_text("of before")
    with pytest.raises(ExportError, match=words):
        export({"encoder": model}, [model], loaders(4, 4), [kind], folder, {})
    assert [path.name for path in folder.iterdir()] == ["encoder.pt"]
    assert (folder / "encoder.pt").read_text() == "of before" and not leftovers(folder)


def test_the_description_names_the_classes(tmp_path):
    folder, model = tmp_path / "deployment", torch.nn.Linear(4, 3)
    some = {**loaders(4, 4), "bank": Named()}
    export({"encoder": model}, [model], some, ["torchscript"], folder, {"step": 3})
    facts = json.loads((folder / "model.json").read_text())
    assert facts["classes"] == {"0": "cat", "2": "dog"} and facts["step"] == 3
    assert facts["output"] == {"encoder": [3]}


def test_wrong_input_ends_before_the_training(config, monkeypatch):
    with pytest.raises(ConfigError, match="did you mean 'torchscript'"):
        config("simclr", "log.export.types=[torchscrip]")
    monkeypatch.setattr("stable_ssl.tools.export.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install stable-ssl.export."):
        SimCLR(config("simclr", ALL)).run()
    with pytest.raises(ConfigError, match="mode=export needs weights"):
        SimCLR(config("simclr", "mode=export")).run()
