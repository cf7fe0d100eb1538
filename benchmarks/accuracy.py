"""Does batched augmentation cost accuracy? SimCLR's kNN with ours and with PIL's.

The same policy, model and seeds; the views come from the batched ops, or from
torchvision's transforms on PIL images, one at a time in worker processes. Printed: kNN
top-1 (k = 20, bank = train) on the test split after the last epoch, mean and standard
deviation over the seeds.

    python benchmarks/accuracy.py
    python benchmarks/accuracy.py --cifar FOLDER   # of train/<class>/NNNN.jpg and test
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time

import torch

from stable_ssl import load_config
from stable_ssl.methods import SimCLR

AMOUNTS = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
TENSOR = {"_target_": "torchvision.transforms.ToTensor"}
V1 = "torchvision.transforms."
NORMALIZE = {"name": "normalize", "mean": 0.47, "std": 0.25}
NOISE = {"name": "noise", "std": 0.1}

POLICIES = {
    "digits": {
        "ours": [
            {"name": "random_resized_crop", "size": 8, "scale": [0.5, 1.0]},
            {"name": "rotation", "degrees": 15},
            {"name": "brightness", "amount": 0.4},
            NOISE,
        ],
        "PIL": [
            {"_target_": V1 + "RandomResizedCrop", "size": 8, "scale": [0.5, 1.0]},
            {
                "_target_": V1 + "RandomRotation",
                "degrees": 15,
                "interpolation": {
                    "_target_": "hydra.utils.get_object",
                    "path": V1 + "InterpolationMode.BILINEAR",
                },
            },
            {"_target_": V1 + "ColorJitter", "brightness": 0.4},
            TENSOR,
            NOISE,
        ],
    },
    "cifar": {
        "ours": [
            {"name": "random_resized_crop", "size": 32, "scale": [0.2, 1.0]},
            {"name": "horizontal_flip"},
            {"name": "color_jitter", **AMOUNTS, "p": 0.8},
            {"name": "grayscale", "p": 0.2},
            NORMALIZE,
        ],
        "PIL": [
            {"_target_": V1 + "RandomResizedCrop", "size": 32, "scale": [0.2, 1.0]},
            {"_target_": V1 + "RandomHorizontalFlip"},
            {
                "_target_": V1 + "RandomApply",
                "transforms": [{"_target_": V1 + "ColorJitter", **AMOUNTS}],
                "p": 0.8,
            },
            {"_target_": V1 + "RandomGrayscale", "p": 0.2},
            TENSOR,
            NORMALIZE,
        ],
    },
}


def data_of(name, policy, args):
    """Return the group `data` of a trial."""
    views = [policy, policy]
    if name == "digits":
        train, test = {"name": "digits", "subset": "train"}, {"name": "digits"}
        plain, size = [], 128
    else:
        few = {"include_filter": ["*/[01]???.jpg"]}  # 2,000 images a class
        train = {"name": "image_folder", "subset": "train", **few}
        test = {"name": "image_folder"}
        plain, size = [NORMALIZE], 256
    test = {**test, "subset": "test", "image_transform": plain}
    return {
        "root": args.cifar or ".",
        "batch_size": size,
        "eval_batch_size": 512,
        "num_workers": 2 if name == "cifar" else 0,
        "train": {"dataset": {**train, "image_transform": views}},
        "val": None,
        "test": {"dataset": test},
    }


def trial(name, policy, seed, args):
    """Train once; return kNN top-1 on the test split, and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        config = load_config(
            "simclr",
            [
                f"log.folder={folder}",
                f"hardware.seed={seed}",
                f"optim.epochs={args.epochs if name == 'cifar' else 50}",
                "log.eval.every_n_epochs=null",
                "log.eval.untrained=false",
                "log.eval.few_labels=[]",
                "log.eval.linear=null",
                "log.monitor=null",
                "log.every_n_steps=50",
                "log.checkpoint.every_n_epochs=null",
            ],
        )
        if name == "cifar":
            config.optim.scheduler.warmup_epochs = 1
            config.model.backbone.width = args.width
        config = {**config, "data": data_of(name, policy, args)}
        with contextlib.redirect_stdout(nowhere):
            trainer, start = SimCLR(config), time.perf_counter()
            trainer.run()
        return trainer.metrics["test/knn_acc1"], time.perf_counter() - start


def main():
    """Print a table for every data set at hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", help="folder of CIFAR-10 as images")
    parser.add_argument("--epochs", type=int, default=15, help="of CIFAR-10")
    parser.add_argument(
        "--width", type=int, default=16, help="of the convnet, CIFAR-10"
    )
    parser.add_argument("--only", choices=POLICIES, help="one of the data sets")
    parser.add_argument("--views", choices=("ours", "PIL"), help="one of the two")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'data':8}{'views':8}{'kNN':>8}{'deviation':>11}{'seconds':>9}  each")
    for name, policies in POLICIES.items():
        if args.only not in (None, name) or (name == "cifar" and not args.cifar):
            continue
        for views, policy in policies.items():
            if args.views not in (None, views):
                continue
            trials = [trial(name, policy, seed, args) for seed in range(args.seeds)]
            found, seconds = zip(*trials, strict=True)
            spread = statistics.stdev(found) if args.seeds > 1 else 0.0
            each = " ".join(f"{value:.4f}" for value in found)
            print(
                f"{name:8}{views:8}{statistics.mean(found):8.4f}{spread:11.4f}"
                f"{statistics.mean(seconds):9.1f}  {each}",
                flush=True,
            )


if __name__ == "__main__":
    main()
