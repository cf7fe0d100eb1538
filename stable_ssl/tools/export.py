"""A trained model as files for deployment, each loaded again and compared with it.

    encoder.pt  classifier.pt     torchscript: torch.jit.load, also in C++
    encoder.pt2  classifier.pt2   torch_export: torch.export.load
    backbone/                     safetensors: model.safetensors, and of a model of timm
                                  config.json, so that timm and Hugging Face load it
    model.json                    what goes in and comes out, and how near the files are

All are in float32 and evaluation mode, on the CPU, for batches of any size.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from stable_ssl.augment.colour import Normalize
from stable_ssl.batch import first_view
from stable_ssl.data import Loader
from stable_ssl.data.datasets import class_names
from stable_ssl.evaluation.suite import undisturbed
from stable_ssl.files import replacing_folder
from stable_ssl.schema import ConfigError, first_line, unwritable

TOLERANCE = 1e-4  # of a difference, relative to the largest output
IMAGES = 4  # of the batch that is compared

Function = Callable[[Tensor], Tensor]


class ExportError(ConfigError):
    """A model that a format cannot hold, or a file that does not do what it does."""


def check_types(types: Sequence[str]) -> None:
    """Refuse a type whose package is missing, before anything is trained."""
    if "safetensors" in types and find_spec("safetensors") is None:
        raise ConfigError(
            "log.export.types names safetensors, which is not installed; pip install"
            " stable-ssl[export]"
        )


def export_run(run: Any) -> None:
    """Write a trainer's `encode`, and `predict` if it classifies, to `deployment`.

    Raises:
        ConfigError: as of `export`, or the folder cannot be written.
    """
    if run.rank > 0:
        return
    functions = {"encoder": run.encode}
    if (predictions := run.evaluation.predictions) is not None:
        functions["classifier"] = run.predict
    types = run.settings.export.types or ["torchscript"]
    task = predictions.task if predictions else run.task
    facts = {"epoch": run.epoch, "step": run.step, "task": task}
    folder = run.run_dir / "deployment"
    try:
        export(functions, run.evaluation.modules, run.loaders, types, folder, facts)
    except OSError as error:
        raise unwritable(folder, error) from error
    run.say(f"exported: {folder}")


def export(
    functions: Mapping[str, Function],
    modules: Sequence[nn.Module],
    loaders: Mapping[str, Any],
    types: Sequence[str],
    folder: Path,
    facts: Mapping[str, Any],
) -> None:
    """Write functions of images to a folder, which is replaced once all are checked.

    Args:
        functions: by name, of images (N, C, H, W) -> (N, ...); `encoder` is one.
        modules: that the functions use.
        loaders: a batch of val, test, bank or train is what is compared.
        types: any of torchscript, torch_export, safetensors.
        folder: `deployment` in the run folder.
        facts: more for model.json, as JSON types.

    Raises:
        ExportError: a function cannot be written so, or what was written differs from
            it; the folder is as it was.
    """
    x, preparation = _batch(loaders)
    with replacing_folder(folder) as new:
        with undisturbed(*modules), _on_cpu(modules):
            models = {n: _Alone(f, modules, x) for n, f in functions.items()}
            differences = {
                name: difference
                for kind in types
                for name, difference in WRITERS[kind](models, x, new).items()
            }
            _describe_input(new / "backbone", x, preparation)
            shapes = {name: list(model(x).shape[1:]) for name, model in models.items()}
        known = loaders.get("bank", loaders.get("train"))
        described = {
            "input": list(x.shape[1:]),
            **preparation,
            "output": shapes,
            "classes": class_names(getattr(known, "dataset", None)),  # where known
            **facts,
            "torch": torch.__version__,
            "difference": differences,
        }
        (new / "model.json").write_text(json.dumps(described, indent=1) + "\n")


def _batch(loaders: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Return a few real images as evaluation sees them, and how they were normalised.

    Returns:
        At least two, on the CPU, and {mean, std} of each channel, of pixels from 0 to
        1; null of a loader that does not say it.
    """
    order = ("val", "test", "bank", "train")
    names = sorted(loaders, key=lambda name: order.index(name.partition("_")[0]))
    loader = loaders[names[0]]
    x = first_view(next(iter(loader))[0])[:IMAGES].cpu().contiguous()
    mean = std = None
    if isinstance(loader, Loader) and not loader.heads[0].external:
        mean, std = [0.0] * x.shape[1], [1.0] * x.shape[1]
        for op in (*loader.heads[0].ops, *loader.heads[0].tail.ops):
            if isinstance(op, Normalize):
                mean, std = list(op.mean), list(op.std)
    return x if len(x) > 1 else torch.cat([x, x]), {"mean": mean, "std": std}


def _describe_input(new: Path, x: Tensor, preparation: Mapping[str, Any]) -> None:
    """Write what this model was given into timm's description, not its namesake's."""
    if (new / "config.json").exists():
        described = json.loads((new / "config.json").read_text())
        known = described["pretrained_cfg"]
        known |= {"input_size": list(x.shape[1:]), **preparation}
        for name in ("tag", "test_input_size", "crop_pct", "test_crop_pct"):
            known.pop(name, None)
        (new / "config.json").write_text(json.dumps(described, indent=2) + "\n")


@contextmanager
def _on_cpu(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Move modules to the CPU, and back."""
    devices = [next((p.device for p in m.parameters()), None) for m in modules]
    try:
        yield [module.to("cpu") for module in modules]
    finally:
        for module, device in zip(modules, devices, strict=True):
            module.to(device)


class _Alone(nn.Module):
    """A function of images as a module that holds what it uses of some, and no more."""

    def __init__(self, function: Function, modules: Sequence[nn.Module], x: Tensor):
        super().__init__()
        vars(self)["function"] = function  # which, if a module, is not a child
        with _Used() as used:
            function(x)
        for module in modules:
            for name, child in module.named_children():
                if used.any(child.state_dict(keep_vars=True).values()):
                    self.add_module(name, child)
            for name, parameter in module.named_parameters(recurse=False):
                if used.any([parameter]):
                    self.register_parameter(name, parameter)
            for name, buffer in module.named_buffers(recurse=False):
                if used.any([buffer]):
                    self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        return self.function(x)


class _Used(TorchFunctionMode):
    """Notes the tensors that torch's functions are given."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for value in (*args, *(kwargs or {}).values()):
            several = value if isinstance(value, (list, tuple)) else [value]
            self.ids |= {id(tensor) for tensor in several}
        return function(*args, **(kwargs or {}))

    def any(self, tensors: Iterable[Tensor]) -> bool:
        """Return whether one of the tensors was used."""
        return any(id(tensor) in self.ids for tensor in tensors)


def _compare(name: str, loaded: Function, model: Function, x: Tensor) -> float:
    """Return how much a file differs from the model, relative to its largest output.

    Raises:
        ExportError: by too much, on this batch or on its first image alone.
    """
    worst = 0.0
    for images in (x, x[:1]):
        expected, output = model(images), loaded(images)
        if output.shape != expected.shape:
            raise ExportError(
                f"{name} returned {tuple(output.shape)} for {len(images)} images,"
                f" expected {tuple(expected.shape)}; leave its type out of"
                " log.export.types"
            )
        largest = expected.abs().max().clamp(min=1e-12)
        worst = max(worst, float((output - expected).abs().max() / largest))
        if not worst <= TOLERANCE:
            raise ExportError(
                f"{name} differs from the model by {worst:.2g} of its largest output,"
                f" expected at most {TOLERANCE}: it draws or decides something anew on"
                " each call; leave its type out of log.export.types"
            )
    return worst


# --- the types: each writes its files to a folder, and says how much these differ -----


def _each(
    suffix: str,
    write: Callable[[nn.Module, Tensor, Path], Function],
    models: Mapping[str, nn.Module],
    x: Tensor,
    folder: Path,
) -> dict[str, float]:
    """Write each model to a file, given what writes one and loads it again."""
    differences = {}
    for name, model in models.items():
        file = f"{name}{suffix}"
        with _in_words(file), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a trace loses, _compare sees
            loaded = write(model, x, folder / file)
            differences[file] = _compare(file, loaded, model, x)
    return differences


def _traced(model: nn.Module, x: Tensor, path: Path) -> Function:
    """Trace a model; return what its file does."""
    torch.jit.trace(model, x, check_trace=False).save(path)
    return torch.jit.load(path)


def _graph(model: nn.Module, x: Tensor, path: Path) -> Function:
    """Export a model as a graph of ATen; return what its file does."""
    sizes = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (x,), dynamic_shapes=sizes, strict=False)
    torch.export.save(program, path)
    return torch.export.load(path).module()


def _safetensors(
    models: Mapping[str, nn.Module], x: Tensor, folder: Path
) -> dict[str, float]:
    """Write the weights of the encoder's backbone.

    The backbone is the one of the encoder's modules that alone does what the encoder
    does, and its names are its own; where there is none, it is the whole encoder.
    """
    from safetensors.torch import load_file, save_file

    encoder = models["encoder"]
    features = encoder(x)
    known = (module for module in encoder.modules() if hasattr(module, "dim"))
    model = next((m for m in known if torch.equal(m(x), features)), encoder)
    home, file = folder / "backbone", "backbone/model.safetensors"
    home.mkdir()
    with _in_words(file):
        weights = {n: t.contiguous().clone() for n, t in model.state_dict().items()}
        save_file(weights, folder / file)
        loaded = partial(functional_call, model, load_file(folder / file))
        differences = {file: _compare(file, loaded, encoder, x)}
    if hasattr(model, "pretrained_cfg"):
        differences |= _timm(model, x, home)
    return differences


def _timm(model: nn.Module, x: Tensor, home: Path) -> dict[str, float]:
    """Describe a model of timm so that timm builds it; warn where it cannot."""
    import timm

    name, weights = "backbone/config.json", home / "pytorch_model.bin"
    try:
        timm.models.save_for_hf(model, home, model_args={"in_chans": x.shape[1]})
        weights.unlink()  # they are there as safetensors
        loaded = timm.create_model(f"local-dir:{home}", pretrained=True).eval()
        return {name: _compare(name, loaded, model, x)}
    except Exception as error:
        (home / "config.json").unlink(missing_ok=True)
        weights.unlink(missing_ok=True)
        warnings.warn(
            f"{name} was left out: timm does not build this model from it"
            f" ({first_line(error)})",
            stacklevel=2,
        )
        return {}


WRITERS = {
    "torchscript": partial(_each, ".pt", _traced),
    "torch_export": partial(_each, ".pt2", _graph),
    "safetensors": _safetensors,
}


@contextmanager
def _in_words(file: str) -> Iterator[None]:
    """Turn any failure to write a file into an ExportError of one line."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"{file} could not be written: {type(error).__name__}:"
            f" {first_line(error)}; leave its type out of log.export.types"
        ) from error
