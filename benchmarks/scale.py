"""What a data set of ImageNet's size costs, beside torchvision and webdataset's wids.

A folder of 1.28 M hard links in 1,000 classes is listed: by torchvision's ImageFolder,
and by ours, cold (there is no index yet) and warm (it is mapped). Each is a process of
its own, by turns: seconds, the peak of memory beyond what was there, and the memory
that a worker has to itself after it looked at all paths. Tar shards of small files are
indexed and read in random order. Further parts are a state of 300 million numbers, as
of ViT-L, see checkpoint.py, and the evaluators, see scale_evaluation.py.

    python benchmarks/scale.py            # of 1.28 M names, which are made in --place
    python benchmarks/scale.py --small 1  # of 1,280
    python benchmarks/scale.py --parts folder shards

The pages of the folder are in memory: a first scan from a disk or over a network takes
what these take. Memory that is mapped is shared by all processes of a machine.
"""

import os
import shutil
import tarfile
import tempfile
import time
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import checkpoint
import numpy
import scale_evaluation
from measured import Measured, in_a_process, memory, paired, run

FILES, CLASSES = 1_280_000, 1000
LINKS = 50_000  # of one file; file systems allow 65,000
SHARDS, SAMPLES = 8, 4000  # tar shards, and samples in each
CONTENT = 4096  # bytes of a sample
ROUNDS = 3


def write_folder(root, files, classes):
    """Make a folder of hard links, in the order in which ImageNet's names are not."""
    places = [root / "images" / f"n{c:08}" for c in range(classes)]
    for place in places:
        place.mkdir(parents=True)
    for number in range(files):
        if number % LINKS == 0:
            file = root / f"{number}.jpg"
            file.touch()
        name = f"n{number % classes:08}_{number * 7919 % files}.JPEG"
        os.link(file, places[number % classes] / name)


def theirs(root):
    """Return torchvision's data set and its paths."""
    from torchvision.datasets import ImageFolder

    return ImageFolder, lambda data: (path for path, _ in data.samples)


def ours(root):
    """Return our data set and its paths."""
    from stable_ssl.data.sources.folder import ImageFolder

    return ImageFolder, lambda data: data.files()


def scanned(kind, root):
    """List a folder; return seconds, those of the CPU, and MB of memory at the peak."""
    build, _ = kind(root)
    before, start, busy = memory("VmRSS"), time.perf_counter(), time.process_time()
    build(str(root))
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return seconds, busy, (memory("VmHWM") - before) / 1e6


def worker_memory(kind, root):
    """Return the MB that a worker has to itself after it looked at all paths."""
    build, paths = kind(root)
    data = build(str(root))
    received, sent = os.pipe()
    if not (child := os.fork()):
        before = private_memory()
        for path in paths(data):
            len(path)
        os.write(sent, f"{(private_memory() - before) / 1e6}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    return float(os.read(received, 99))


def private_memory():
    """Return the bytes that this process alone has, mapped pages of files aside."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(x.split()[1]) * 1024 for x in lines if x.startswith("Private_Dirty"))


def folder(root, small):
    """Yield the figures of a folder."""
    files, classes = (FILES // 1000, 10) if small else (FILES, CLASSES)
    write_folder(root, files, classes)
    images, cache = root / "images", root / "cache"
    os.environ["STABLE_SSL_CACHE"] = str(cache)
    found = {"torchvision": [], "cold": [], "warm": []}
    for _ in range(1 if small else ROUNDS):
        shutil.rmtree(cache, ignore_errors=True)
        found["torchvision"].append(in_a_process(scanned, theirs, images))
        found["cold"].append(in_a_process(scanned, ours, images))
        found["warm"].append(in_a_process(scanned, ours, images))
    beside, what = "torchvision", f"scan of {files:,} files"
    columns = {name: list(zip(*rows, strict=True)) for name, rows in found.items()}
    units = ("s", "s"), ("CPU", "s"), ("memory", "MB")
    for kind in ("cold", "warm"):
        for i, (name, unit) in enumerate(units):
            other, own = columns[beside][i], columns[kind][i]
            own = [max(value, 1e-3) for value in own]
            text = f"{what}, {kind}" + (f", {name}" if i else "")
            least = sorted(own)[len(own) // 2]
            yield Measured(text, least, unit, beside, paired(other, own))
    size = sum(path.stat().st_size for path in cache.rglob("*.index")) / 1e6
    yield Measured(f"{what}: index, mapped by all", size, "MB")
    other = in_a_process(worker_memory, theirs, images)
    own = max(in_a_process(worker_memory, ours, images), 1e-3)
    text = "memory of a worker that saw all paths"
    yield Measured(text, own, "MB", beside, other / own)


def write_shards(root, samples):
    """Write tar shards of samples of 4 KiB."""
    content = os.urandom(CONTENT)
    for shard in range(SHARDS):
        with tarfile.open(root / f"{shard}.tar", "w", tarfile.USTAR_FORMAT) as file:
            for i in range(samples):
                key = f"{shard * samples + i:07}"
                for name, data in (("jpg", content), ("cls", b"7")):
                    member = tarfile.TarInfo(f"{key}.{name}")
                    member.size = len(data)
                    file.addfile(member, BytesIO(data))


def indexed(root, samples, order):
    """Return our microseconds a sample to index shards, and to read by number."""
    from stable_ssl.data.sources.tar import Tar

    start = time.perf_counter()
    data = Tar(str(root), f"{{0..{SHARDS - 1}}}.tar")
    built = time.perf_counter() - start
    start = time.perf_counter()
    for row in order:
        data.file(row)
    return built / len(data) * 1e6, (time.perf_counter() - start) / len(order) * 1e6


def indexed_by_wids(root, samples, order):
    """Return wids's microseconds a sample to index shards, and to read by number."""
    import wids

    paths = [str(root / f"{shard}.tar") for shard in range(SHARDS)]
    start = time.perf_counter()
    shards = [{"url": path, "nsamples": samples} for path in paths]
    data = wids.ShardListDataset(
        shards, transformations=[], keep=True, lru_size=SHARDS, localname=str
    )
    for first in range(0, SHARDS * samples, samples):  # indexes each when it is opened
        data[first]
    built = time.perf_counter() - start
    start = time.perf_counter()
    for row in order:
        data[row][".jpg"].read()
    size = SHARDS * samples
    return built / size * 1e6, (time.perf_counter() - start) / len(order) * 1e6


def shards(root, small):
    """Yield the figures of tar shards."""
    samples = 40 if small else SAMPLES
    write_shards(root, samples)
    order = numpy.random.default_rng(0).permutation(SHARDS * samples).tolist()
    beside = "wids" if find_spec("wids") else ""
    own, other = [], []
    for turn in range(1 if small else ROUNDS):
        os.environ["STABLE_SSL_CACHE"] = str(root / f"cache{turn}")
        own.append(in_a_process(indexed, root, samples, order))
        if beside:
            other.append(in_a_process(indexed_by_wids, root, samples, order))
    for i, what in enumerate(("index of tar shards", "read from tar shards")):
        values = [row[i] for row in own]
        ahead = paired([row[i] for row in other], values) if beside else None
        middle = sorted(values)[len(values) // 2]
        yield Measured(what, middle, "us a sample", beside, ahead)


def measure(small, place, parts):
    """Yield the figures of some parts."""
    for part in map(PARTS.get, parts):
        with tempfile.TemporaryDirectory(dir=place or None) as root:
            yield from part(Path(root), bool(small))


def state(root, small):
    """Yield the figures of a checkpoint of 300 million numbers, beside torch's."""
    yield from checkpoint.measure([1 if small else 1145], 1)


def evaluation(root, small):
    """Yield the figures of kNN and the linear evaluator, on one process and on two."""
    yield from scale_evaluation.measure(small)


PARTS = {
    "folder": folder,
    "shards": shards,
    "state": state,
    "evaluation": evaluation,
}

if __name__ == "__main__":
    run(measure, __doc__, small=0, place="", parts=[*PARTS])
