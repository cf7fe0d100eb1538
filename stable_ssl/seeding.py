"""Random numbers as a function of (seed, epoch, index, view), and the global state.

A key is an int64. Keys and random bits are SplitMix64's finaliser of a counter (Steele
et al. 2014, https://doi.org/10.1145/2660193.2660195): integer arithmetic that wraps, so
every device, batch and number of threads gives the same bits. Only the second half of
this module touches a global generator.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

KEYS, DRAWS = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95  # steps of the two counters
FINALISER = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # shift, factor

Shape = tuple[int, ...]


def _signed(x: int) -> int:
    """Wrap an integer to int64, as tensors do."""
    return (x + 2**63) % 2**64 - 2**63


def _shift(x: Tensor, n: int) -> Tensor:
    """Shift right by n, without the sign."""
    return (x >> n).bitwise_and_(2 ** (64 - n) - 1)


def _mixed(counters: Tensor, step: int, key: Tensor) -> Tensor:
    """Hash key + step * counters, all int64 and broadcast."""
    x = counters * step + key
    for shift, factor in FINALISER:
        x.bitwise_xor_(_shift(x, shift)).mul_(_signed(factor))
    return x.bitwise_xor_(_shift(x, 31))


# torch.compile computes such products without wrapping, so wrong. It does not look into
# a custom operator, which costs 5 us more and is called only where it compiles.
_mixed_whole = torch.library.custom_op("stable_ssl::mixed", _mixed, mutates_args=())


@_mixed_whole.register_fake
def _(counters: Tensor, step: int, key: Tensor) -> Tensor:
    return counters + key


def _mix(counters: Tensor, step: int, key: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return _mixed_whole(counters, step, key)
    return _mixed(counters, step, key)


def _fold(key: int, *data: int) -> int:
    """`fold_in` of Python integers, one after the other; a microsecond each."""
    for counter in data:
        key = (key + KEYS * (counter + 1)) % 2**64
        for shift, factor in FINALISER:
            key = (key ^ key >> shift) * factor % 2**64
        key ^= key >> 31
    return _signed(key)


# --- keyed: nothing here reads or moves a global generator ----------------------------


def fold_in(key: int | Tensor, data: int | Tensor) -> Tensor:
    """Derive the key of `data` under `key`, both int64 and broadcast."""
    if isinstance(key, int) and isinstance(data, int):
        return torch.tensor(_fold(key, data))
    if isinstance(key, int):
        key = torch.tensor(_signed(key))
    counter = torch.tensor(data + 1) if isinstance(data, int) else data + 1
    return _mix(counter, _signed(KEYS), key)


def sample_keys(seed: int, epoch: int, index: Tensor, view: int = 0) -> Tensor:
    """Return the key (N,) of each view of each sample.

    Args:
        seed: of the run.
        epoch: of the loader.
        index: of the samples in their dataset, (N,) integers on any device.
        view: which view of the sample.
    """
    return fold_in(_fold(seed, epoch, view), index.long())


def sample_key(seed: int, epoch: int, index: int, view: int = 0) -> int:
    """Return the key of a view of one sample, which `sample_keys` gives of many."""
    return _fold(seed, epoch, view, index)


def bits(keys: Tensor, shape: Shape = ()) -> Tensor:
    """Draw 64 random bits an entry, (N, *shape) int64; keys are (N,) int64."""
    counters = torch.arange(1, math.prod(shape) + 1, device=keys.device)
    return _mix(counters, _signed(DRAWS), keys.unsqueeze(-1)).view(*keys.shape, *shape)


def uniform(
    keys: Tensor, shape: Shape = (), low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Draw from [low, high), (N, *shape) float32; k 2^-24 with k of 24 bits in [0, 1).

    Rounding to float32 may give `high` itself, unless the range is [0, 1).
    """
    u = _shift(bits(keys, shape), 40).float().mul_(2**-24)
    return u if (low, high) == (0.0, 1.0) else u.mul_(high - low).add_(low)


def normal(keys: Tensor, shape: Shape = ()) -> Tensor:
    """Draw from the standard normal by Box-Muller, (N, *shape) float32, |z| < 5.8.

    Equal on two devices to the last places only: the logarithm and the sine are theirs.
    """
    n = math.prod(shape)
    drawn = bits(keys, (-(-n // 2),))  # 64 bits give two uniforms, and they two normals
    radius = (1 - _shift(drawn, 40).float().mul_(2**-24)).log_().mul_(-2).sqrt_()
    angle = drawn.bitwise_and_(2**24 - 1).float().mul_(2**-23 * math.pi)
    z = torch.cat((angle.cos().mul_(radius), angle.sin_().mul_(radius)), -1)
    return z[..., :n].reshape(*keys.shape, *shape)


def directions(key: Tensor, dim: int, count: int) -> Tensor:
    """Draw columns (dim, count) of norm 1, in every direction alike, from a key ()."""
    return normalize(normal(key, (dim, count)), dim=0)


def randint(keys: Tensor, high: int | Tensor, shape: Shape = ()) -> Tensor:
    """Draw integers from [0, high), (N, *shape) int64.

    Args:
        keys: (N,) int64.
        high: below 2^31; a tensor broadcasts against (N, *shape).
        shape: of each key's draw.
    """
    return _shift(bits(keys, shape), 33) * high >> 31


def permutation(n: int, *data: int) -> Tensor:
    """Return the permutation (n,) int64 on the CPU that belongs to `data`."""
    key = torch.tensor(_fold(n, *data), device="cpu")
    return bits(key, (n,)).argsort(stable=True)


# --- global: what is left to the generators of python, numpy and torch ----------------


def seed_everything(seed: int) -> None:
    """Seed the generators of python, numpy and torch (all devices)."""
    import numpy

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def keyed(key: int | Tensor) -> Iterator[None]:
    """Seed the CPU's global generators from a key inside, restore them on exit.

    What others draw inside, with python, numpy or torch, is a function of the key. A
    worker process, whose state nobody relies on, is left as it is then.
    """
    import numpy
    from torch.utils.data import get_worker_info

    seed = int(key)
    with preserve_rng() if get_worker_info() is None else nullcontext():
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        yield


def _capture() -> tuple[Any, ...]:
    import numpy

    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state(), cuda


def _restore(python: Any, numpy_: Any, cpu: Tensor, cuda: Tensor | None) -> None:
    import numpy

    random.setstate(python)
    numpy.random.set_state(numpy_)
    torch.set_rng_state(cpu)
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)


def get_rng_state() -> dict[str, Any]:
    """Return the global state: python, numpy, torch's CPU and its current CUDA device.

    Tensors and plain types only, for `torch.load(weights_only=True)`. A CUDA not yet
    initialised has drawn nothing and stays so.
    """
    (version, numbers, gauss), (name, keys, *rest), cpu, cuda = _capture()
    return {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype("int64")), *rest],
        "cpu": cpu,
        "cuda": cuda,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `get_rng_state` returned."""
    version, numbers, gauss = state["python"]
    name, keys, *rest = state["numpy"]
    python = (version, tuple(numbers.tolist()), gauss)
    numpy_ = (name, keys.cpu().numpy().astype("uint32"), *rest)
    cuda = state["cuda"]
    _restore(python, numpy_, state["cpu"].cpu(), None if cuda is None else cuda.cpu())


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Restore the global state on exit, whatever was drawn inside; some 70 us."""
    state = _capture()
    try:
        yield
    finally:
        _restore(*state)


@contextmanager
def replayed(state: dict[str, Any]) -> Iterator[None]:
    """Draw inside what was drawn after `get_rng_state` returned a state."""
    with preserve_rng():
        set_rng_state(state)
        yield
