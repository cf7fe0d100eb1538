"""Methods by name; one file each, and none imports another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stable_ssl.instantiate import find_object
from stable_ssl.schema import ConfigError, nearest

if TYPE_CHECKING:
    from stable_ssl.trainer import BaseTrainer

METHODS = {  # file: class
    "barlow_twins": "BarlowTwins",
    "byol": "BYOL",
    "data2vec": "Data2Vec",
    "dcl": "DCL",
    "deepcluster_v2": "DeepClusterV2",
    "dino": "DINO",
    "dinov2": "DINOv2",
    "distillation": "Distillation",
    "fixmatch": "FixMatch",
    "ibot": "IBOT",
    "ijepa": "IJEPA",
    "lejepa": "LeJEPA",
    "mae": "MAE",
    "mean_teacher": "MeanTeacher",
    "mmcr": "MMCR",
    "moco_v2": "MoCoV2",
    "moco_v3": "MoCoV3",
    "msn": "MSN",
    "multitask": "MultiTask",
    "nnclr": "NNCLR",
    "ressl": "ReSSL",
    "simclr": "SimCLR",
    "simmim": "SimMIM",
    "simsiam": "SimSiam",
    "supcon": "SupCon",
    "supervised": "Supervised",
    "swav": "SwAV",
    "tico": "TiCo",
    "vicreg": "VICReg",
    "visreg": "VISReg",
    "w_mse": "WMSE",
}


def method_class(name: str | None) -> type[BaseTrainer]:
    """Return the trainer class of `model.name`: a method, or a class's dotted path.

    Raises:
        ConfigError: no such method or class, or the class is no trainer.
    """
    if not isinstance(name, str):
        found = "is not set" if name is None else f"is no text: {name}"
        raise ConfigError(f"model.name {found} (methods: {', '.join(METHODS)})")
    file = name.lower()
    if file in METHODS:
        return find_object(f"{__name__}.{file}.{METHODS[file]}", "model.name")
    if "." in name:
        return checked_trainer(find_object(name, "model.name"), f"model.name={name}")
    raise ConfigError(
        f"model.name={name} is not a method{nearest(name, METHODS)}"
        f" (methods: {', '.join(METHODS)}; or the dotted path of a trainer class)"
    )


def checked_trainer(found: Any, named: str) -> type[BaseTrainer]:
    """Return what is to be run, a trainer's class.

    Args:
        found: by a dotted path, or given by a script.
        named: how, for the message.

    Raises:
        ConfigError: it is none, or lacks one of the three methods.
    """
    from stable_ssl.setup_checks import refuse_incomplete
    from stable_ssl.trainer import BaseTrainer

    if not (isinstance(found, type) and issubclass(found, BaseTrainer)):
        raise ConfigError(
            f"{named} is no trainer; give a subclass of stable_ssl.BaseTrainer"
        )
    refuse_incomplete(found, BaseTrainer)
    return found


def __getattr__(name: str) -> Any:
    for file, cls in METHODS.items():
        if cls == name:
            return method_class(file)
    raise AttributeError(f"module {__name__} has no attribute {name}")
