"""kNN and the linear evaluator at ImageNet's size: time, memory, and ranks' shares.

A bank of 1,281,167 features of 384 numbers, noise around the centres of classes, on the
CPU, one thread a process. kNN is timed on a tenth of 50,000 queries and one epoch of
the linear evaluator on a tenth of its steps, nine learning rates and 1,000 classes;
both are linear in what they are timed on. Time is of the CPU. Memory is what the peak
of a process grows by beyond the bank that it holds. faiss (`faiss-cpu`, where it is
installed) searches an IndexFlatIP as in knn.py. The last figures are of two ranks,
which collect a bank batch by batch as a run does, from an encoder that costs nothing.

    python benchmarks/scale_evaluation.py
    python benchmarks/scale_evaluation.py --small 1  # in seconds
"""

import time

import knn
import torch
from measured import Measured, in_a_process, peak, run

from stable_ssl import distributed
from stable_ssl.distributed.config import Hardware
from stable_ssl.evaluation.bank import Bank, encode_bank
from stable_ssl.evaluation.config import OfflineConfig
from stable_ssl.evaluation.knn import knn_accuracy
from stable_ssl.evaluation.linear import classifiers

IMAGENET = {"bank": 1_281_167, "queries": 5_000, "dim": 384, "classes": 1_000}
SMALL = {"bank": 20_000, "queries": 500, "dim": 32, "classes": 50}
K, BATCH, RANKS = 20, 256, 2
MB = 1e6


def spent(work):
    """Return the CPU seconds of a call, and the MB by which it raises the peak."""
    memory, start = peak(), time.process_time()
    work()
    return time.process_time() - start, peak() - memory


def neighbours(who, sizes):
    """Return time and memory of a search by one process."""
    knn.one_thread()
    knn.SEARCHES[who](*knn.features(300, 300, 16), K)  # what is imported and started
    bank, queries = knn.features(sizes["bank"], sizes["queries"], sizes["dim"])
    return spent(lambda: knn.SEARCHES[who](bank, queries, K))


def fit(bank, sizes, rows):
    """Take the steps of an epoch on so many rows, at all learning rates."""
    rates, rows = OfflineConfig().lrs, torch.arange(rows)
    classifiers(bank, sizes["classes"], rates, 1, BATCH, seed=0, rows=rows)


def linear(sizes):
    """Return time and memory of a tenth of an epoch by one process."""
    torch.set_num_threads(1)
    x, _ = knn.features(sizes["bank"], 0, sizes["dim"])[0]
    bank = Bank.of((x, torch.arange(len(x)) % sizes["classes"]))
    fit(bank, sizes, BATCH)
    return spent(lambda: fit(bank, sizes, len(x) // 10))


def batches(sizes, of_all):
    """Yield this rank's part of each batch, features in place of images."""
    world, share = distributed.world_size(), BATCH // distributed.world_size()
    generator = torch.Generator().manual_seed(distributed.rank())
    for _ in range(of_all // BATCH):
        x = torch.randn(share, sizes["dim"], generator=generator)
        yield x, torch.randint(sizes["classes"], (share,), generator=generator)
    assert share * world == BATCH


def on_a_rank(sizes):
    """Return time and memory of each rank: collecting a bank, kNN, linear."""
    torch.set_num_threads(1)
    distributed.start(Hardware(gpus=0, accelerator="cpu"))

    def encoded(size):
        bank = encode_bank(lambda x: x, batches(sizes, size))
        return bank if bank.finite else None  # one in a file is mapped as it is read

    def search(bank, size):
        parts = [*batches(sizes, max(BATCH, size))]
        queries = [torch.cat(t) for t in zip(*parts, strict=True)]
        knn_accuracy(bank, tuple(queries), sizes["classes"], K)

    found, kept = {}, []
    small = encoded(4 * BATCH)
    search(small, BATCH)
    fit(small, sizes, BATCH)
    found["collected"] = spent(lambda: kept.append(encoded(sizes["bank"])))
    found["searched"] = spent(lambda: search(kept[0], sizes["queries"]))
    found["fitted"] = spent(lambda: fit(kept[0], sizes, sizes["bank"] // 10))
    found["held"] = 0, kept[0].features.nbytes / MB
    found = distributed.all_gather_object(found)
    distributed.stop()
    return found


def measure(small):
    """Yield time and memory by one process and by two."""
    sizes = SMALL if small else IMAGENET
    size, count, dim = sizes["bank"], sizes["queries"], sizes["dim"]
    what = f"kNN, {count:,} in {size:,} x {dim}"
    found = {who: in_a_process(neighbours, who, sizes) for who in knn.SEARCHES}
    seconds, memory = found["ours"]
    beside = [("", None)] * 2
    if "faiss" in found:
        theirs = found["faiss"]
        beside = [("faiss", theirs[0] / seconds), ("faiss", theirs[1] / memory)]
    yield Measured(what, seconds, "s", *beside[0])
    yield Measured(what, memory, "MB more", *beside[1])
    epoch = f"linear, .1 epoch of {size:,} x {dim}"
    alone = in_a_process(linear, sizes)
    yield Measured(epoch, alone[0], "s")
    yield Measured(epoch, alone[1], "MB more")
    ranks = distributed.spawn(on_a_rank, RANKS, (sizes,))
    for name, text in (("searched", what), ("fitted", epoch)):
        one = {"searched": seconds, "fitted": alone[0]}[name]
        longest = max(rank[name][0] for rank in ranks)
        most = max(rank[name][1] for rank in ranks)
        yield Measured(f"{text}, a rank of 2", longest, "s", "one", one / longest)
        yield Measured(f"{text}, a rank of 2", most, "MB more")
    held = max(rank["held"][1] for rank in ranks)
    most = max(rank["collected"][1] for rank in ranks)
    yield Measured("bank, a rank of 2 holds", held, "MB")
    yield Measured("bank, a rank of 2 while it is collected", most, "MB")


if __name__ == "__main__":
    run(measure, __doc__, small=0)
