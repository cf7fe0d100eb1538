"""stable-SSL: a minimal, researcher-first trainer for self-supervised learning."""

from pathlib import Path

from setuptools import find_packages, setup

TEST = [
    "pytest",
    "pytest-xdist>=3.8",
    "datasets",
    "docutils",
    "fsspec",
    "hypothesis",
    "hydra-optuna-sweeper",
    "ruff",
    "safetensors",
    "selenium",
    "tensorboard",
    "tifffile",
    "torchmetrics",
]

setup(
    name="stable-ssl",
    version="0.1.0",
    description=__doc__.partition(": ")[2].strip(),
    long_description=Path(__file__).with_name("README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="MIT",
    python_requires=">=3.10",
    packages=[*find_packages(include=["stable_ssl*"]), "stable_ssl.recipes"],
    package_dir={"stable_ssl.recipes": "runs/configs"},
    package_data={
        "stable_ssl.recipes": ["*.yaml", "*/*.yaml"],
        "stable_ssl.tools": ["assets/*"],
    },
    exclude_package_data={"stable_ssl.recipes": ["local/*"]},  # this machine's
    install_requires=[
        "torch>=2.8",  # before, a gloo process group may hang as it ends
        "torchvision",
        "timm>=1.0.12",
        "hydra-core>=1.3,<1.5",  # 1.5 is to drop the argument version_base
        "omegaconf>=2.3",
        "python-dotenv",
        "submitit",
        "hydra-submitit-launcher",
        "wandb",
        "matplotlib",
        "pandas",
        "rich",
        "scikit-learn",
    ],
    extras_require={
        "export": ["safetensors"],
        "huggingface": ["datasets"],
        "tensorboard": ["tensorboard"],
        "tiff": ["tifffile"],
        "torchmetrics": ["torchmetrics"],
        "shards": ["fsspec"],
        "optuna": ["hydra-optuna-sweeper"],
        "peers": [
            "lightly",
            "stable-pretraining",
            "faiss-cpu",
            "kornia",
            "albumentations",
            "webdataset<1",  # with wids
        ],
        "references": ["lightly", "pytorch-metric-learning", "transformers"],
        "docs": ["sphinx>=7.4", "myst-nb", "nbclient", "ipykernel"],
        "test": TEST,
        "dev": [*TEST, "pre-commit"],
    },
    entry_points={"console_scripts": ["stable-ssl=stable_ssl.commands:main"]},
)
