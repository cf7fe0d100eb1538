"""Methods by name; one file each, and none imports another."""

from __future__ import annotations

from typing import Any

from stable_ssl.instantiate import find_object
from stable_ssl.schema import ConfigError, nearest

METHODS = {  # file: class
    "barlow_twins": "BarlowTwins",
    "byol": "BYOL",
    "dino": "DINO",
    "fixmatch": "FixMatch",
    "ijepa": "IJEPA",
    "lejepa": "LeJEPA",
    "mae": "MAE",
    "mean_teacher": "MeanTeacher",
    "moco_v3": "MoCoV3",
    "multitask": "MultiTask",
    "nnclr": "NNCLR",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
    "supcon": "SupCon",
    "supervised": "Supervised",
    "swav": "SwAV",
    "vicreg": "VICReg",
}


def method_class(name: str | None) -> type:
    """Return the trainer class of `model.name`: a method, or a class's dotted path.

    Raises:
        ConfigError: no such method or class.
    """
    if name is None:
        raise ConfigError(f"model.name is not set (methods: {', '.join(METHODS)})")
    file = name.lower()
    if file in METHODS:
        return find_object(f"{__name__}.{file}.{METHODS[file]}", "model.name")
    if "." in name:
        return find_object(name, "model.name")
    raise ConfigError(
        f"model.name={name} is not a method{nearest(name, METHODS)}"
        f" (methods: {', '.join(METHODS)}; or the dotted path of a trainer class)"
    )


def __getattr__(name: str) -> Any:
    for file, cls in METHODS.items():
        if cls == name:
            return method_class(file)
    raise AttributeError(f"module {__name__} has no attribute {name}")
