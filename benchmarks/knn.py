"""Time of nearest neighbours beside faiss's, and their memory beside the features.

Features of noise around the centres of classes, on the CPU, one thread. faiss
(`faiss-cpu`, where it is installed) searches an IndexFlatIP of the same features, both
normalised in the measured time, and the neighbours vote in torch. Both take turns; a
ratio is the median over rounds of the ratios of CPU time of the same round. Memory
is the growth of the peak of a process of its own, after a warm-up on a few rows.

    python benchmarks/knn.py
    python benchmarks/knn.py --k 20 --rounds 3
"""

import statistics
import time

import torch
from measured import Measured, in_a_process, paired, peak, run
from torch.nn.functional import normalize

from stable_ssl.evaluation.knn import knn_accuracy

try:
    import faiss
except ImportError:
    faiss = None

CLASSES, TEMPERATURE = 100, 0.07
SIZES = [(5_000, 1_000, 128), (50_000, 2_000, 384), (200_000, 1_000, 384)]


def features(bank, queries, dim):
    """Return bank and queries, each features (N, dim) and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, dim, generator=generator)
    labels = torch.randint(CLASSES, (bank + queries,), generator=generator)
    x = torch.randn(bank + queries, dim, generator=generator).mul_(3)
    for part, own in zip(x.split(1000), labels.split(1000), strict=True):
        part.add_(centres[own])  # by parts, or the peak of memory would be here
    return [*zip(x.split([bank, queries]), labels.split([bank, queries]), strict=True)]


def ours(bank, queries, k):
    """Return the accuracy by the library."""
    return knn_accuracy(bank, queries, CLASSES, k, TEMPERATURE)["acc1"]


def by_faiss(bank, queries, k):
    """Return the accuracy by faiss and the same vote."""
    index = faiss.IndexFlatIP(bank[0].shape[1])
    index.add(normalize(bank[0]).numpy())
    nearest, found = index.search(normalize(queries[0]).numpy(), k)
    nearest, found = torch.from_numpy(nearest), torch.from_numpy(found)
    weight = ((nearest - nearest[:, :1]) / TEMPERATURE).exp()
    votes = torch.zeros(len(found), CLASSES).scatter_add_(1, bank[1][found], weight)
    return (votes.argmax(1) == queries[1]).float().mean().item()


SEARCHES = {"ours": ours} if faiss is None else {"faiss": by_faiss, "ours": ours}


def one_thread():
    """Let neither side use more."""
    torch.set_num_threads(1)
    if faiss is not None:
        faiss.omp_set_num_threads(1)


def seconds(sizes, k, rounds):
    """Return the CPU seconds of each search, round by round."""
    bank, queries = features(*sizes)
    found, accuracies = {who: [] for who in SEARCHES}, set()
    for _ in range(rounds):
        for who, search in SEARCHES.items():
            start = time.process_time()
            accuracies.add(round(search(bank, queries, k), 2))
            found[who].append(time.process_time() - start)
    if len(accuracies) > 1:
        raise SystemExit(f"the searches disagree: top 1 {sorted(accuracies)}")
    return found


def grown(who, sizes, k):
    """Return the MB by which a search raises the peak of this process."""
    one_thread()
    SEARCHES[who](*features(300, 300, 16), k)
    bank, queries = features(*sizes)
    before = peak()
    SEARCHES[who](bank, queries, k)
    return peak() - before


def measure(k, rounds):
    """Yield time and memory of each size."""
    one_thread()
    for sizes in SIZES:
        bank, queries, dim = sizes
        what = f"kNN, {queries:,} in {bank:,} x {dim}, k={k}"
        spent = seconds(sizes, k, rounds)
        memory = {who: in_a_process(grown, who, sizes, k) for who in spent}
        time_of, least = statistics.median(spent["ours"]), memory["ours"]
        if faiss is None:
            yield Measured(what, time_of, "s")
            yield Measured(what, least, "MB")
            continue
        ahead = paired(spent["faiss"], spent["ours"])
        headline = bank == 50_000
        yield Measured(what, time_of, "s", "faiss", ahead, headline)
        yield Measured(what, least, "MB", "faiss", memory["faiss"] / least)


if __name__ == "__main__":
    run(measure, __doc__, k=200, rounds=7)
