"""Profiles as tables for a person."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from stable_ssl.profiling.data import WORDS
from stable_ssl.report.layout import Table


def data_tables(found: Mapping[str, Any]) -> str:
    """Return a profile of data as text; its form is `profile_data`'s."""
    tables = []
    for name, one in found["loaders"].items():
        rates = one["images_per_s"]
        rows = [
            ("building datasets and loaders", f"{found['build_s']:.2f} s"),
            ("first batch", f"{one['first_batch_s']:.2f} s"),
            ("images a second", f"{sum(rates) / len(rates):,.0f}"),
            ("  slowest and fastest pass", f"{min(rates):,.0f} to {max(rates):,.0f}"),
        ]
        for stage, ms in one.get("stages_ms", {}).items():
            rows.append((f"{WORDS[stage]}, of an image", f"{ms:.3f} ms"))
        title = (
            f"data, loader {name}: batch size {one['batch_size']},"
            f" {one['num_workers']} workers, {os.cpu_count()} cores"
        )
        notes = [one["bottleneck"]] if "bottleneck" in one else []
        tables.append(Table(title, ("", "measured"), rows, notes=notes))
    return "\n\n".join(map(str, tables))


def model_tables(found: Mapping[str, Any]) -> str:
    """Return a profile of a model as text; its form is `profile_model`'s."""
    ms, flops = found["ms"], found["flops"]
    whole = sum(ms.values())
    time = Table(
        f"a step of {found['batch_size']} images on {found['device']}, median of"
        f" {found['steps']}",
        ("", "ms", "share"),
        [
            *((name, f"{t:.2f}", f"{t / whole:.0%}") for name, t in ms.items()),
            ("all", f"{whole:.2f}", ""),
        ],
        notes=[
            f"{found['images_per_s']:,.0f} images/s trained,"
            f" {found['encode_images_per_s']:,.0f} encoded for evaluation",
            f"{(flops['forward'] + flops['backward']) / 1e9:,.2f} GFLOP a step,"
            f" {flops['per_s'] / 1e9:,.1f} GFLOP/s; {flops['encode_image'] / 1e9:,.4f}"
            " GFLOP to encode an image",
            f"{found['activations_mib']:,.1f} MiB of activations held for the backward"
            f" pass, {found['peak_gib']:.2f} GiB of memory at the peak",
            words(ms),
        ],
    )
    modules = Table(
        "parameters",
        ("", "all", "trained", "MiB"),
        [
            (
                row["module"],
                f"{row['parameters']:,}",
                f"{row['trained']:,}",
                f"{row['mib']:.2f}",
            )
            for row in found["modules"]
        ],
    )
    ops = Table(
        "slowest ops of a step",
        ("", "calls", "ms", "share"),
        [
            (row["op"], str(row["calls"]), f"{row['ms']:.2f}", f"{row['share']:.0%}")
            for row in found["ops"]
        ],
    )
    return "\n\n".join(map(str, (time, modules, ops)))


def words(ms: Mapping[str, float]) -> str:
    """Say what most of a step is spent on, and what helps; milliseconds by part."""
    name = max(ms, key=ms.get)
    share = f"{name} takes {ms[name] / sum(ms.values()):.0%} of a step"
    helps = {
        "data": "see mode=profile_data",
        "forward": "hardware.compile=true or hardware.precision=bfloat16 may help",
        "backward": "hardware.compile=true or hardware.precision=bfloat16 may help",
        "optimizer": "a larger data.batch_size takes fewer of these",
        "probe": "log.eval.linear=null turns it off",
        "hooks": "see before_train_step and after_train_step of the method",
    }
    return f"{share}; {helps[name]}"
