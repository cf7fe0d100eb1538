"""`stable_ssl.load`: what a run trained, as a module in a script or notebook."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf
from torch import nn

from stable_ssl import checkpoint, seeding
from stable_ssl.commands import trust
from stable_ssl.methods import METHODS, method_class
from stable_ssl.models.weights import load_networks
from stable_ssl.schema import ConfigError
from stable_ssl.state import own_state
from stable_ssl.tensor_files import read
from stable_ssl.trainer import BaseTrainer


def load(
    path: str | Path,
    trainer: type[BaseTrainer] | None = None,
    config: Mapping | None = None,
) -> BaseTrainer | nn.Module:
    """Return the trainer of a run with its trained weights, in eval mode on the CPU.

    Nothing is written and no data are needed: `trainer(x)`, `trainer.encode(x)` and its
    networks, such as `trainer.backbone`, are to be called on images as the run
    evaluated them, (N, C, H, W).

    Args:
        path: a run folder, for its newest checkpoint; a checkpoint; with `config` also
            weights of another library, as `log.load_from` takes them. Of the folder
            `deployment/backbone` of an export the network alone is returned.
        trainer: the class of a run whose class is not one of the library.
        config: as `load_config` returns it; None: the one in the checkpoint.

    Raises:
        ConfigError: no such file, a file that is damaged or of another model, or
            objects of the configuration that are not the library's.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        import timm

        return timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    content = checkpoint.newest_valid(path / "ckpts") if path.is_dir() else read(path)
    if content is None:
        raise ConfigError(f"{path} has no checkpoint; give a run folder, or a file")
    own = own_state(content)
    if config is None:
        if own is None:
            raise ConfigError(
                f"{path} has weights and does not say of which model; give one:"
                ' stable_ssl.load(path, config=load_config("simclr", [...]))'
            )
        config = own["config"]
        _refuse_code(config, path)
    run = _built(config, trainer, path, own and own["trainer"])
    if own is None:
        load_networks(run, content, str(path))
    else:
        checkpoint.load_modules(run, own["modules"])
        run.epoch, run.step = own["epoch"], own["step"]
    return run.eval()


def _built(
    config: Mapping,
    trainer: type[BaseTrainer] | None,
    path: Path,
    trained: str | None,
) -> BaseTrainer:
    """Return a trainer of which the networks are built, and nothing else.

    Args:
        config: of all groups.
        trainer: its class; None: the library's of `model.name`.
        path: of the weights, for messages.
        trained: name of the class that trained them, where it is known.

    Raises:
        ConfigError: a class of the user's own is needed, and not given.
    """
    plain = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    model = plain.get("model") or {}
    method = METHODS.get(model.get("name"))
    if trainer is None and (method is None or trained not in (None, method)):
        name = trained or model.get("name") or "MyIdea"
        raise ConfigError(
            f"{path} is of a class of your own, {name}; give it:"
            f" stable_ssl.load(path, trainer={name.rpartition('.')[2]})"
        )
    for network in (model.get("backbone"), model.get("teacher")):
        if isinstance(network, dict):  # whose weights are in the checkpoint
            for key in ("pretrained", "weights"):
                network.pop(key, None)
    run = (trainer or method_class(model["name"]))(plain)
    run.num_classes = run.config.data.num_classes
    with seeding.preserve_rng():
        run.initialize_modules()
    return run


def _refuse_code(config: Mapping, path: Path) -> None:
    """Refuse a file's configuration that names code besides the library's.

    Raises:
        ConfigError: names it.
    """
    for use in trust.uses(path, {"model": config.get("model") or {}}):
        if use.where != "model.name":
            raise ConfigError(
                f"{path} asks for {use.what} ({use.where}), which is no part of the"
                " library; give a configuration of yours: config=load_config(...)"
            )
