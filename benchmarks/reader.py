"""Time to read many runs: `python benchmarks/reader.py [runs] [rows]`.

Writes run folders to a temporary folder and loads them, as `stable-ssl table` does.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from stable_ssl import load_config, report
from stable_ssl.secrets import to_yaml


def write(folder: Path, config: str, rows: int) -> None:
    """Write a run with a train row a step and a val row every ten."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "status.json").write_text('{"status": "finished", "reason": ""}')
    with open(folder / "metrics.jsonl", "w") as file:
        for step in range(1, rows + 1):
            row = {"step": step, "epoch": step / 100, "time": 1.8e9 + step / 3}
            names = "loss probe_loss lr grad_norm" if step % 10 else "acc1 knn_acc1"
            split = "train" if step % 10 else "val"
            row |= {f"{split}/{name}": 1 / (step + 1) for name in names.split()}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Write, load, and print the seconds."""
    runs, rows = (int(n) for n in (*sys.argv[1:], "1000", "1000")[:2])
    with tempfile.TemporaryDirectory() as root:
        config = load_config("simclr")
        for seed in range(runs):
            config.hardware.seed, config.log.run = seed, f"r{seed}"
            write(Path(root) / "runs" / "simclr" / f"r{seed}", to_yaml(config), rows)
        start, busy = time.perf_counter(), time.process_time()
        frame, curves = report.load(root)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(frame)} runs, {len(curves):,} rows: {seconds:.1f} s, {busy:.1f} s of one"
        f" core, at most {memory:.1f} GiB of memory"
    )


if __name__ == "__main__":
    main()
