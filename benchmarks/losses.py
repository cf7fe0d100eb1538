"""Time and memory of losses, forward and backward, beside the plain formula's.

Float32 on the CPU, one thread. Ours, the formula as one would write it down, and
lightly's class where it is installed take turns in one process; a ratio is the median
over rounds of the ratios of CPU time of the same round. Memory is the growth of the
peak of a process of its own, after a warm-up on a few rows.

    python benchmarks/losses.py
    python benchmarks/losses.py --names nt_xent --rounds 5
"""

import statistics
import time

import torch
import torch.nn.functional as F
from measured import Measured, in_a_process, paired, peak, run

from stable_ssl import losses

try:
    from lightly import loss as lightly
except ImportError:
    lightly = None

SIZES = {  # N, D of each of two views
    "nt_xent": [(256, 128), (1024, 128), (4096, 128)],
    "barlow_twins": [(256, 128), (256, 2048), (1024, 1024), (256, 8192)],
    "vicreg": [(256, 128), (256, 2048), (1024, 1024), (256, 8192)],
}


# --- plain formulas -------------------------------------------------------------------


def nt_xent(z_a, z_b, temperature=0.5):
    """Compute NT-Xent as a cross-entropy over all similarities at once."""
    z = F.normalize(torch.cat([z_a, z_b]))
    logits = (z / temperature) @ z.T
    logits.fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z_a)))


def off_diagonal_squares(x):
    """Subtract the diagonal's squares from all, which needs no mask."""
    return x.square().sum() - x.diagonal().square().sum()


def barlow_twins(z_a, z_b, offdiagonal=5e-3):
    """Compute the cross-correlation of standardised views."""
    a, b = ((z - z.mean(0)) / z.std(0, unbiased=False) for z in (z_a, z_b))
    correlation = a.T @ b / len(a)
    on = (1 - correlation.diagonal()).square().sum()
    return on + offdiagonal * off_diagonal_squares(correlation)


def vicreg(z_a, z_b):
    """Compute variance and covariance of each view."""
    loss = 25 * F.mse_loss(z_a, z_b)
    for z in (z_a, z_b):
        z = z - z.mean(0)
        covariance = z.T @ z / (len(z) - 1)
        deviation = (covariance.diagonal() + 1e-4).sqrt()
        loss = loss + 12.5 * (1 - deviation).relu().mean()
        loss = loss + off_diagonal_squares(covariance) / z.shape[1]
    return loss


TITLES = {"nt_xent": "NT-Xent", "barlow_twins": "Barlow Twins", "vicreg": "VICReg"}
PLAIN = {"nt_xent": nt_xent, "barlow_twins": barlow_twins, "vicreg": vicreg}
CLASSES = {
    "nt_xent": "NTXentLoss",
    "barlow_twins": "BarlowTwinsLoss",
    "vicreg": "VICRegLoss",
}


def contestants(name):
    """Return what computes a loss, by whose it is."""
    found = {"the formula": PLAIN[name], "ours": getattr(losses, name)}
    if lightly is not None:
        found["lightly"] = getattr(lightly, CLASSES[name])()
    return found


# --- what they cost -------------------------------------------------------------------


def views(n, d):
    """Return two views with a common part, of which gradients are asked."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, n, d, generator=generator)
    return [(z[0] + part).requires_grad_() for part in z[1:]]


def step(loss, z):
    """Compute a loss and its gradient."""
    torch.autograd.grad(loss(*z), z)


def milliseconds(name, n, d, rounds):
    """Return the ms of each contestant, round by round."""
    found, z = contestants(name), views(n, d)
    spent = {who: [] for who in found}
    repeats = max(1, 2**24 // (n * d * min(n, d)))
    for number in range(rounds + 1):
        for who, loss in found.items():
            start = time.process_time()
            for _ in range(repeats):
                step(loss, z)
            if number:  # the first one warms up
                spent[who].append((time.process_time() - start) / repeats * 1e3)
    return spent


def grown(name, who, n, d):
    """Return the MB by which a step raises the peak of this process."""
    torch.set_num_threads(1)
    loss = contestants(name)[who]
    step(loss, views(8, 16))
    z = views(n, d)
    before = peak()
    step(loss, z)
    return peak() - before


def measure(names, rounds):
    """Yield time and memory of each loss and size."""
    torch.set_num_threads(1)
    for name in names:
        for n, d in SIZES[name]:
            what = f"{TITLES[name]}, {n:,} x {d:,}"
            spent = milliseconds(name, n, d, rounds)
            memory = {who: in_a_process(grown, name, who, n, d) for who in spent}
            ours, least = spent.pop("ours"), memory.pop("ours")
            for who, theirs in spent.items():
                ms, ahead = statistics.median(ours), paired(theirs, ours)
                headline = name == "nt_xent"
                yield Measured(what, ms, "ms", who, ahead, headline)
                yield Measured(what, least, "MB", who, memory[who] / least)


if __name__ == "__main__":
    run(measure, __doc__, names=list(SIZES), rounds=15)
