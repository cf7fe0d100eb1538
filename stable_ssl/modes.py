"""What `mode` asks besides fit, validate and test: what a run does with its model."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from stable_ssl.config import unwritable
from stable_ssl.data import build_loaders
from stable_ssl.evaluation.predictions import write_predictions
from stable_ssl.export import export as export_functions


def predict(run: Any) -> None:
    """Write predictions.csv and scores.csv of the split `data.predict`.

    Args:
        run: a trainer after `setup`, as for all of these.
    """
    function = run.online.afresh(run.predict) if run._classifies else None
    with run.online.evaluation():
        path = write_predictions(
            function, run.loaders, run._task, run.run_dir, run._limit
        )
    run.say(f"predictions: {path}")


def export(run: Any) -> None:
    """Write `encode`, and `predict` if it classifies, to the folder `deployment`."""
    functions = {"encoder": run.online.plain}
    if run._classifies:
        functions["classifier"] = run.online.afresh(run.predict)
    types = run.settings.export.types or ["torchscript"]
    facts = {"epoch": run.epoch, "step": run.step, "task": run._task}
    folder = run.run_dir / "deployment"
    if run.rank == 0:
        try:
            export_functions(
                functions, run.online.modules, run.loaders, types, folder, facts
            )
        except OSError as error:
            raise unwritable(folder, error) from error
        run.say(f"exported: {folder}")


def profile_data(run: Any) -> None:
    """Time how the train data are made; write profile_data.json."""
    from stable_ssl import profiling

    build = partial(build_loaders, run.config, run.device)
    found = profiling.profile_data(build, run.device, run._limit)
    _show(run, "profile_data", found, profiling.data_tables(found))


def profile_model(run: Any) -> None:
    """Take training steps, of which nothing is kept; write profile_model.json."""
    from stable_ssl import profiling

    def step(batch: Any) -> None:
        run.train_micro_batch(batch)
        if run.online.probe is not None:
            run.online.fit_probe(run.labelled(batch))

    watched = {
        "train_step": (run, "train_step"),
        "forward": (run, "loss"),
        "optimizer": (run, "optimizer_step"),
    }
    if run.online.probe is not None:
        watched["probe"] = (run.online, "fit_probe")
    run.train()
    run.before_train_epoch()
    found = profiling.profile_model(
        run,
        profiling.endless(run.train_loader, run._epoch_batches, run.device),
        step,
        watched,
        run.compute_loss,
        run.online.plain,
        run.autocast,
        run.device,
        run._limit,
    )
    _show(run, "profile_model", found, profiling.model_tables(found))


def _show(run: Any, name: str, found: dict[str, Any], text: str) -> None:
    """Print a profile, and write it as JSON."""
    if run.rank == 0:
        file = f"{name}.json"
        run.records.folder.write_file(file, json.dumps(found, indent=1) + "\n")
        run.records.console.table(text)
        run.say(f"profile: {run.run_dir / file}")


MODES = {
    "predict": predict,
    "export": export,
    "profile_data": profile_data,
    "profile_model": profile_model,
}
