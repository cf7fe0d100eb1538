"""Weights & Biases: online or offline as WANDB_MODE says, one run id a run folder."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_ssl.files import write_atomically
from stable_ssl.loggers.trackers import Row, Tracker, drawn

WAIT = 30  # seconds for the network: at the start, to log in, and at the end

SETTINGS = {  # nothing is sent or printed but rows, pictures and the masked config
    "console": "off",
    "silent": True,
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "init_timeout": WAIT,
    "login_timeout": WAIT,
    "finish_timeout": WAIT,
}


class Wandb(Tracker):
    """Log each row under its number in metrics.jsonl, which is wandb's own step.

    A resumed run continues the id in `wandb/run_id`, unless it had finished and is made
    longer. Online, wandb says how many rows it has: those are not sent again, and those
    that it missed are. Offline, a kill takes with it what wandb had not yet written, so
    every launch records all rows anew: the newest folder is the whole run, and the one
    to `wandb sync`.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], rows: Sequence[Row]):
        import wandb

        log, path = config["log"], folder / "wandb" / "run_id"
        if not path.exists() or not re.fullmatch(r"[\w-]+", path.read_text()):
            write_atomically(path, secrets.token_hex(4))
        self.run = wandb.init(
            dir=folder,
            id=path.read_text(),
            resume="allow",
            reinit="create_new",  # beside a run that a notebook has open
            entity=log["entity"],
            project=log["project"],
            group=log["experiment"],
            name=log["run"],
            tags=log["tags"],
            config=dict(config),
            settings=wandb.Settings(**SETTINGS),
        )
        self.run.define_metric("*", step_metric="step")
        self.rows, self.sent = 0, self.run.starting_step
        pictures = drawn(folder)
        for row in rows:
            while pictures and pictures[0][0] <= row["step"]:
                step, name, picture = pictures.pop(0)
                self.picture(name, picture, step)
            self.write(row)

    def write(self, row: Row) -> None:
        """Log a row unless wandb has one of its number."""
        if self.rows >= self.sent:
            self.run.log(dict(row), step=self.rows, commit=True)
        self.rows += 1

    def picture(self, name: str, path: Path, step: int) -> None:
        """Log an image with the row that comes next."""
        import wandb

        if self.rows >= self.sent:
            image = wandb.Image(str(path))
            self.run.log({f"figures/{name}": image}, step=self.rows, commit=False)

    def close(self, status: str) -> None:
        """Send what is left, for a limited time; a run that did not finish failed."""
        if status == "preempted":
            self.run.mark_preempting()
        self.run.finish(exit_code=0 if status == "finished" else 1)
