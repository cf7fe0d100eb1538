"""Data: datasets by name, keyed batched augmentation, resumable loaders.

The group `data` of a configuration becomes loaders in build.py. Its datasets are in
`sources`, what lists their files in `index`, what decodes one in `images`, and what
makes batches of them in `loading`.
"""

from stable_ssl.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "stable_ssl.augment": "register_op",
        "stable_ssl.data.loading.block_shuffle": "BlockShuffle",
        "stable_ssl.data.build": "build_loader build_loaders",
        "stable_ssl.data.combined": "Combined",
        "stable_ssl.data.loading.loader": "Loader",
        "stable_ssl.data.presets": (
            "RotationCollate center_crop_transforms train_transforms"
        ),
        "stable_ssl.data.datasets": "build_dataset register_dataset",
        "stable_ssl.data.images.unreadable": "Unreadable",
    },
)
