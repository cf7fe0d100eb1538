"""The run folder: configuration, environment, status, console and rows of one run."""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stable_ssl import distributed
from stable_ssl.files import overwritten, write_atomically
from stable_ssl.lock import Lock, Taken
from stable_ssl.loggers import own_code
from stable_ssl.loggers.arguments import masked_arguments
from stable_ssl.loggers.jsonl import FORMAT, JsonLines, read_rows
from stable_ssl.loggers.names import Metric, stated_metrics
from stable_ssl.loggers.trackers import Row, Trackers
from stable_ssl.schema import ConfigError, unwritable
from stable_ssl.secrets import masked, to_yaml

LINES = {"rows": "metrics.jsonl", "spectra": "spectra.jsonl"}  # files of lines
APART = "evaluations.jsonl"  # rows of evaluations that are no figures of the run


class RunFolder:
    """The folder of a run, with one owner, and one writer a file.

    Where a person deletes it or its lock while the run goes on, what is written as a
    whole is written anew, but checkpoints and figures; its rows are in any case.

    Args:
        path: the folder; None for a temporary one that vanishes with `close`.
        fresh: refuse a folder that holds a run already.

    Raises:
        ConfigError: the folder holds a run and `fresh` is asked, another process owns
            it, or it is not writable.
    """

    def __init__(self, path: Path | None, fresh: bool = False):
        self.temporary = tempfile.TemporaryDirectory() if path is None else None
        self.path = Path(path or self.temporary.name)
        self.texts: dict[str, tuple[str, bool]] = {}  # by file, and whether private
        if fresh and (self.path / "metrics.jsonl").exists():
            raise ConfigError(
                f"log.resume=null, but {self.path} holds a run already; choose another"
                " log.run, or log.resume=auto to continue it"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock = Lock(self.path)
        except OSError as error:
            raise ConfigError(
                f"cannot write the run folder {self.path}: {error.strerror}; set"
                " log.folder to a folder that can be written"
            ) from error
        try:  # unbuffered: what could not be written must not be tried again in `close`
            self.console = open(self.path / "console.log", "ab", buffering=0)
        except OSError as error:
            self.lock.release()
            raise unwritable(self.path / "console.log", error) from error
        # a command that is refused leaves the status of an old run alone
        self.owned = not (self.path / "status.json").exists()
        self.lines: dict[str, JsonLines] = {}  # as LINES, those that are open
        self.apart: Row = {}  # see `open_rows`
        self.trackers = Trackers([], self.path, {}, [])
        self.ended = "finished"  # or what `status` said last

    def describe(
        self, config: DictConfig, overrides: Sequence[str], environment: dict[str, Any]
    ) -> None:
        """Write config.yaml, config_tree.txt, overrides.yaml, add to environment.json.

        An evaluation leaves the config of the training that the folder holds alone.

        Raises:
            ConfigError: one of them could not be written.
        """
        if config.mode == "fit" or not (self.path / "config.yaml").exists():
            self.write_file("config.yaml", to_yaml(config))
            self.write_file("config_tree.txt", "\n".join(_tree(masked(config))) + "\n")
            overrides = OmegaConf.to_yaml(masked_arguments(overrides))
            self.write_file("overrides.yaml", overrides)
        launches = [*_launches(self.path / "environment.json"), environment]
        # with a diff of code that is nobody else's yet
        text = json.dumps(launches, indent=1)
        self.write_file("environment.json", text, private=True)

    def keep_code(self, modules: Iterable[str]) -> str | None:
        """Copy the user's files among modules to `code`; say which have changed since.

        Where one cannot be written, a warning says so: the run is worth more.

        Returns:
            What stands for them; None where there are none, or it is not known.
        """
        files = own_code.own_modules(modules)
        if other := own_code.changes(own_code.recorded(self.path)):
            listed = ", ".join(f"{name} ({how})" for name, how in other.items())
            warnings.warn(f"code of this run has changed: {listed}", stacklevel=2)
        own = None
        try:
            texts, own = own_code.texts(files)
            for name, text in texts.items():
                self.write_file(name, text, private=True)  # as yet nobody else's
        except (ConfigError, OSError) as error:
            warnings.warn(f"code of this run is not kept: {error}", stacklevel=2)
        return own

    def describe_metrics(self, metrics: Mapping[str, Metric]) -> None:
        """Keep what evaluators state of their metrics, beside what others stated.

        Where it cannot be written, a warning says so: labels are no reason to fail.
        """
        if self.apart:
            return
        stated = stated_metrics(self.path) | dict(metrics)
        fields = {name: asdict(metric) for name, metric in stated.items()}
        try:
            self.write_file("metrics.json", json.dumps(fields, indent=1))
        except ConfigError as error:
            warnings.warn(str(error), stacklevel=2)

    def confirm(self) -> None:
        """Make sure that the folder is there and ours, before more is written to it.

        Raises:
            Taken: another process has taken it over; nothing more will be written.
            ConfigError: it was removed, and cannot be made anew.
        """
        try:
            if not self.lock.is_ours():
                self._make_anew()
        except Taken:
            self.owned, self.ended = False, "failed"
            self.console.close()
            self.console = open(os.devnull, "ab", buffering=0)
            raise
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _make_anew(self) -> None:
        """Write what was removed while the run goes on, and warn if it is more."""
        console = self.path / "console.log"
        removed = not console.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock.acquire()
        for name, (text, private) in self.texts.items():
            write_atomically(self.path / name, text, private)
        if not removed:
            return
        self.console.close()
        self.console = open(console, "ab", buffering=0)
        for lines in self.lines.values():
            lines.restore()
        message = (
            f"{self.path} was removed while the run goes on; it was made anew, without"
            " the checkpoints and figures so far"
        )
        self.say(message)
        warnings.warn(message, stacklevel=4)

    def open_rows(
        self, kept: Mapping[str, int] | None, apart: Row | None = None
    ) -> list[Row]:
        """Open metrics.jsonl, and spectra.jsonl where there is one; return the rows.

        They are cut to the `positions` kept, a missing one is 0, unless that is None.
        A warning names the lines that are no rows any more.

        Args:
            kept: lengths in bytes.
            apart: what tells an evaluation from the run's figures; its rows, to which
                this is added, go to evaluations.jsonl, and nowhere else.
        """
        self.apart = apart or {}
        if self.apart:
            self.lines["rows"] = JsonLines(self.path / APART)
            return []
        positions = {n: None if kept is None else kept.get(n, 0) for n in LINES}
        self.lines["rows"] = JsonLines(self.path / LINES["rows"], positions["rows"])
        spectra = self.path / LINES["spectra"]
        if spectra.exists() or positions["spectra"]:
            self.lines["spectra"] = JsonLines(spectra, positions["spectra"])
            read_rows(self.path, spectra.name)
        return read_rows(self.path)

    def track(self, config: DictConfig, rows: Sequence[Row]) -> None:
        """Mirror the rows as `log.api` says, those so far too."""
        if config.log.api and not self.apart:
            self.trackers = Trackers(config.log.api, self.path, masked(config), rows)

    def write(self, row: Row) -> None:
        """Write a row to metrics.jsonl and to its mirrors."""
        self.confirm()
        self.lines["rows"].write({**row, **self.apart})
        self.trackers.write(row)

    def write_spectrum(self, line: Mapping[str, Any]) -> None:
        """Append a line to spectra.jsonl."""
        if self.apart:
            return
        if "spectra" not in self.lines:
            self.lines["spectra"] = JsonLines(self.path / LINES["spectra"])
        self.lines["spectra"].write(line)

    @property
    def positions(self) -> dict[str, int]:
        """The lengths in bytes of what `open_rows` opened."""
        return {n: self.lines[n].position if n in self.lines else 0 for n in LINES}

    def sync(self) -> None:
        """Wait until rows and spectra are on the disk."""
        for lines in self.lines.values():
            lines.sync()

    def own(self, longer: bool) -> None:
        """Let the status be of this launch, which goes on with the run: running.

        Args:
            longer: whether steps are left. wandb cannot take back the last rows of a
                run that had finished, so it gets all of this one under another id.
        """
        if longer and _said(self.path) == "finished":
            (self.path / "wandb" / "run_id").unlink(missing_ok=True)
        self.owned = True
        self.status("running")

    def status(self, status: str, reason: str = "") -> None:
        """Write status.json: running, finished, preempted, diverged or failed.

        Nothing happens to the status of an old run before `own`. On a full disk it is
        written over the old one. Where it cannot be written, a warning says so: what
        ends the run, perhaps the same disk, must be heard.

        Raises:
            ConfigError: the run begins, or has finished, and that cannot be written.
        """
        if not self.owned:
            return
        self.ended, text = status, _status(status, reason)
        try:
            self.confirm()
            self.write_file("status.json", text)
        except ConfigError as error:
            if self.owned and overwritten(self.path / "status.json", text):
                return
            if status in ("running", "finished"):
                raise
            warnings.warn(f"status {status}: {error}", stacklevel=2)

    def abandon(self, reason: str) -> None:
        """Say that the run failed, from any thread, and give the folder free."""
        mark_failed(self.path, reason)
        self.say(f"failed {reason}")
        self.lock.release()

    def say(self, text: str) -> None:
        """Append a line to console.log, or warn: the terminal shows it anyway."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n"
        try:
            self.console.write(line.encode("utf-8", "replace"))
        except OSError as error:
            message = f"console.log is not complete: {error.strerror}"
            warnings.warn(message, stacklevel=2)

    def close(self) -> None:
        """Close the files; delete a temporary folder."""
        self.trackers.close(self.ended)
        self.console.close()
        for lines in self.lines.values():
            lines.close()
        self.lock.release()
        if self.temporary is not None:
            self.temporary.cleanup()

    def write_file(self, name: str, text: str, private: bool = False) -> None:
        """Write a file as a whole, if it changed; a private one for its owner alone.

        Raises:
            ConfigError: it could not be written; the old one is untouched.
        """
        path, self.texts[name] = self.path / name, (text, private)
        try:
            write_atomically(path, text, private)
        except OSError as error:
            raise unwritable(path, error) from error


def open_folder(path: Path | None, fresh: bool) -> RunFolder | NullRunFolder:
    """Open a run's folder, as `RunFolder` does, on rank 0; on others a bystander."""
    folder = RunFolder(path, fresh) if distributed.rank() == 0 else None
    path = distributed.broadcast_object(folder and folder.path)
    return folder or NullRunFolder(path)


def mark_failed(path: Path, reason: str) -> None:
    """Say that a run failed whose own process cannot say it any more."""
    if _said(path) == "running":
        with suppress(OSError):
            write_atomically(path / "status.json", _status("failed", reason))


class NullRunFolder:
    """The run folder of the ranks other than 0, which write nothing."""

    def __init__(self, path: Path):
        self.path = path
        self.positions: dict[str, int] = {}  # of what it does not write

    def ignore(self, *args: Any) -> None:
        """Do nothing, as every method here."""

    describe = describe_metrics = keep_code = open_rows = track = own = status = say = (
        ignore
    )
    write = write_spectrum = write_file = confirm = sync = close = ignore

    def abandon(self, reason: str) -> None:
        """Say that the run failed: rank 0 may be what is missing."""
        mark_failed(self.path, reason)


def _said(path: Path) -> str | None:
    """Return the status in a run folder, None where it cannot be read."""
    with suppress(OSError, ValueError, LookupError, TypeError):  # of what it holds
        return json.loads((path / "status.json").read_text())["status"]
    return None


def _status(status: str, reason: str) -> str:
    """Return what status.json holds."""
    return json.dumps({"status": status, "reason": reason, "format": FORMAT})


def _launches(path: Path) -> list[Any]:
    """Return the launches on record; warn where they cannot be read any more."""
    try:
        launches = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(launches, list):
            raise ValueError("it holds no list")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        warnings.warn(
            f"{path} cannot be read: {error}; what the earlier launches of this run ran"
            " on is lost, and the record starts anew",
            stacklevel=3,
        )
        return []
    return launches


def _tree(value: Mapping[str, Any], indent: str = "") -> list[str]:
    """Return nested keys as lines of an indented tree."""
    lines = []
    for name, child in value.items():
        if isinstance(child, Mapping) and child:
            lines += [f"{indent}{name}", *_tree(child, f"{indent}  ")]
        else:
            lines.append(f"{indent}{name} = {child}")
    return lines
