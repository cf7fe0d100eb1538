"""Errors of torch that a configuration mends, in one line.

No key is wrong by itself: images, labels, a model and a machine do not fit together.
Any other error is the user's or ours, and keeps its traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from stable_ssl.schema import ConfigError, described, where

IMAGES = "give model.backbone another size or name, or resize images by image_transform"
MEMORY = (
    "there is not enough memory ({0}); make data.batch_size smaller (optim.accumulate"
    " keeps the images of a step), set hardware.precision=bfloat16, look for a size in"
    " the configuration that is too large, and for another process in this memory"
)
SENTENCES = {  # of a regular expression that is searched in a message
    r"Expected more than 1 value per channel.*size torch.Size\((.*)\)": (
        "a batch norm found the shape {0}, one value a channel, which has no variance;"
        " use a larger data.batch_size, or drop_last: true for the last batch"
    ),
    r"expected input(\[.*\]) to have (\d+) channels, but got (\d+) channels": (
        "a model of {1} channels found images of {2}, {0}; remove"
        " model.backbone.in_channels, which then is that of the images"
    ),
    r"Given input size: \(([\dx]*)\)\. .*Output size is too small": (
        "images are too small for the model, which has {0} left before a layer that"
        f" shrinks them; {IMAGES}"
    ),
    r"Input (\w+) \((\d+)\) doesn't match model \((\d+)\)": (
        f"a model for images of {{0}} {{2}} found {{1}}; {IMAGES}"
    ),
    r"Wrong image (\w+)! Expected (\d+) but got (\d+)": (
        f"a model for images of {{0}} {{1}} found {{2}}; {IMAGES}"
    ),
    r"Target (-?\d+) is out of bounds": (
        "a label is {0}, and what predicts it has no such output; set data.num_classes,"
        " or the outputs of the head, to more than the largest label, and leave no"
        " image without one"
    ),
    r"device-side assert triggered": (
        "an index on the GPU was out of bounds, most often a label beyond the outputs"
        " of what predicts it; the same run with hardware.accelerator=cpu names it"
    ),
    r"DataLoader timed out after (\S+) seconds": (
        "the data workers made no batch within timeout={0} s; raise timeout, or"
        " num_workers, in the loader's node"
    ),
    r"(?i)(?:tried|unable) to (allocate [\d.]+ \w+)": MEMORY,
    r"(MemoryError|out of memory|size calculation overflowed)": MEMORY,
}


@contextmanager
def translated_torch_errors() -> Iterator[None]:
    """Turn errors that `SENTENCES` knows into a ConfigError, with the user's line."""
    try:
        yield
    except ConfigError:
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError, MemoryError) as error:
        text = " ".join([f"{type(error).__name__}:", *str(error).split()])
        for pattern, sentence in SENTENCES.items():
            if found := re.search(pattern, text):
                said = sentence.format(*found.groups())
                raise ConfigError(said + where(error)) from error
        raise


@contextmanager
def errors_at(path: str) -> Iterator[None]:
    """Turn an error of what a key names into a ConfigError: path, error."""
    try:
        with translated_torch_errors():
            yield
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise ConfigError(f"{path}: {described(error)}") from error
