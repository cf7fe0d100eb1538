"""Readers of what trackers wrote, each by the tracker's own means."""

import csv
import json
import math
import os
import struct
import time

import numpy
import pytest


def number(text):
    try:
        return json.loads(text)
    except ValueError:
        return float(text)  # nan


def truth(run_dir):
    """Return the rows of metrics.jsonl, nan for null."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: math.nan if v is None else v for k, v in r.items()} for r in rows]


def from_csv(run_dir):
    with open(run_dir / "csv" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: number(v) for k, v in row.items() if v != ""} for row in rows]


def from_tensorboard(run_dir):
    """Return what TensorBoard shows: {(name, step, time): [values]}, and pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(run_dir / "tensorboard"), size_guidance={"scalars": 0}
    )
    events.Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            key = name, event.step, event.wall_time
            found.setdefault(key, []).append(event.value)
    return found, {name: len(events.Images(name)) for name in events.Tags()["images"]}


def as_tensorboard(rows):
    """Return rows as `from_tensorboard` does: float32, no step, epoch, time."""
    found = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "epoch", "time"):
                key = name, row["step"], row["time"]
                found.setdefault(key, []).append(float(numpy.float32(value)))
    return found


def records(path):
    """Yield wandb's records so far: a log in LevelDB's format of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768  # of the block
        if left < 7 or data[at + 6] == 0:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        if at + 7 + length > len(data):
            return  # wandb is still writing it
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole, or the last part
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def from_wandb(run_dir, count):
    """Return rows and config of the newest offline folder, and the ids of all.

    wandb's own process may still be writing: `count` rows are waited for.
    """
    for _ in range(100):
        rows, ids, config = {}, set(), {}
        for path in sorted((run_dir / "wandb").glob("offline-run-*/*.wandb")):
            rows, config = {}, {}
            ids.add(path.stem.removeprefix("run-"))
            for record in records(path):
                kind = record.WhichOneof("record_type")
                if kind == "run":
                    entries = record.run.config.update
                    config |= {c.key: json.loads(c.value_json) for c in entries}
                elif kind == "history":
                    row = {
                        "/".join(item.nested_key) or item.key: number(item.value_json)
                        for item in record.history.item
                    }
                    rows[row["_step"]] = {
                        name: value
                        for name, value in row.items()
                        if not name.startswith(("_", "figures/"))
                    }
        if config and len(rows) >= count:
            break
        time.sleep(0.1)
    return [rows[i] for i in sorted(rows)], ids, config


def same(rows, others):
    """Return whether rows are equal, nan being nan."""
    one, other = (
        [sorted((name, float(value)) for name, value in row.items()) for row in r]
        for r in (rows, others)
    )
    return repr(one) == repr(other)


@pytest.fixture
def assert_mirrored():
    """Return an assertion that all three hold the rows of metrics.jsonl."""

    def check(run_dir, folders=1):
        rows = truth(run_dir)
        assert rows
        assert same(from_csv(run_dir), rows)
        shown, _ = from_tensorboard(run_dir)
        assert repr(sorted(shown.items())) == repr(sorted(as_tensorboard(rows).items()))
        logged, ids, _ = from_wandb(run_dir, len(rows))
        assert same(logged, rows)
        assert ids == {(run_dir / "wandb" / "run_id").read_text()}
        assert len(list((run_dir / "wandb").glob("offline-run-*"))) == folders

    return check


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Keep wandb off the network, and its service out of processes started here."""
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
