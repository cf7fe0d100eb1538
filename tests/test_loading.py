"""stable_ssl.load: what a run trained, in a script or notebook."""

import sys

import pytest
import torch

import stable_ssl
from stable_ssl import ConfigError, SimCLR, checkpoint, load_config
from stable_ssl.methods import METHODS, method_class
from stable_ssl.state import capture


@pytest.fixture
def trained(config):
    """Return a maker of a short run: the trainer."""

    def make(name="simclr", *overrides, cls=None):
        made = config(name, "optim.epochs=1", "log.run=trained", *overrides)
        run = (cls or method_class(made.model.name))(made)
        run.run()
        return run.eval()

    return make


def files_of(folder):
    """Return each file's time of change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_run_and_its_checkpoint_are_the_trainer(trained, tmp_path, monkeypatch):
    run = trained()
    x = torch.rand(4, 1, 8, 8)
    before = files_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    for path in (run.run_dir, str(run.run_dir / "ckpts" / "last.ckpt")):
        state = torch.get_rng_state()
        loaded = stable_ssl.load(path)
        assert torch.equal(state, torch.get_rng_state())
        assert type(loaded) is SimCLR and not loaded.training
        assert (loaded.epoch, loaded.step) == (run.epoch, run.step)
        torch.testing.assert_close(loaded(x), run(x))
        assert type(loaded.backbone(x)) is torch.Tensor
    assert files_of(tmp_path) == before


FEW = ("dino", "ijepa", "multitask", "nnclr", "swav")  # whose states are of all kinds
SOME = [m if m in FEW else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]


@pytest.mark.parametrize("name", SOME)
def test_every_method_is_loaded(name, config, tmp_path):
    run = method_class(name)(config(name, "fast_dev_run=true"))
    run.setup()
    state = capture(run)
    run.cleanup()
    checkpoint.save(tmp_path / "run.ckpt", state)
    loaded = stable_ssl.load(tmp_path / "run.ckpt")
    torch.testing.assert_close(loaded.state_dict(), run.state_dict(), rtol=0, atol=0)


def test_a_class_of_ones_own_is_given(trained):
    class Mine(SimCLR):
        pass

    run = trained(cls=Mine)
    with pytest.raises(ConfigError, match=r"own, Mine; give it: .*trainer=Mine\)"):
        stable_ssl.load(run.run_dir)
    assert type(stable_ssl.load(run.run_dir, trainer=Mine)) is Mine


def test_weights_of_another_library_need_a_config(tmp_path):
    made = load_config("simclr", ["+model.backbone.in_channels=1"])
    run = SimCLR(made)
    run.initialize_modules()
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": run.state_dict()}, path)
    with pytest.raises(ConfigError, match="does not say of which model; give one"):
        stable_ssl.load(path)
    loaded = stable_ssl.load(path, config=made)
    torch.testing.assert_close(loaded.state_dict(), run.state_dict())


def test_an_exported_backbone_of_timm_is_the_network(trained, tmp_path):
    pytest.importorskip("safetensors")
    model = "{name: test_vit, provider: timm, img_size: 8, patch_size: 4}"
    run = trained(
        "simclr", f"++model.backbone={model}", "log.export.types=[safetensors]"
    )
    network = stable_ssl.load(run.run_dir / "deployment" / "backbone")
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(network(x), run.backbone(x))


def test_code_that_a_stranger_names_is_not_executed(trained, tmp_path, monkeypatch):
    run = trained()
    path = run.run_dir / "ckpts" / "last.ckpt"
    state = checkpoint.load(path)
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    state["config"]["model"]["backbone"] = {"_target_": "evil.Network"}
    checkpoint.save(path, state)
    with pytest.raises(ConfigError, match="asks for evil.Network"):
        stable_ssl.load(path)
    assert "evil" not in sys.modules


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no checkpoint; give a run folder"):
        stable_ssl.load(tmp_path)
    with pytest.raises(ConfigError, match="no checkpoint at .*none.ckpt"):
        stable_ssl.load(tmp_path / "none.ckpt")
