"""The command `stable-ssl`: results of runs by name, anything else a run to start."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stable_ssl.loggers.table import printable
from stable_ssl.schema import nearest

if TYPE_CHECKING:
    from stable_ssl.trainer import BaseTrainer

COMMANDS = {  # name: module with `add_arguments(parser)` and `run(args)`
    "runs": "stable_ssl.tools.browse",
    "table": "stable_ssl.tools.table",
    "plot": "stable_ssl.tools.plot",
    "report": "stable_ssl.tools.page",
    "rerun": "stable_ssl.commands.rerun",
    "paper": "stable_ssl.commands.paper",
    "export": "stable_ssl.commands.export",
    "pack": "stable_ssl.tools.pack",
}
HELP = """\
stable-ssl runs [ACTION]       list, show, compare, watch and delete runs
stable-ssl table RUNS...       means over seeds, as text, Markdown, CSV or LaTeX
stable-ssl plot RUNS...        figures of runs, as PDF and PNG
stable-ssl report RUNS...      one HTML page to look at runs
stable-ssl paper TABLE.yaml    run what is missing of a table, and write it
stable-ssl rerun RUN_FOLDER    start a run again from its own config.yaml
stable-ssl export RUN_FOLDER   TorchScript and the like of a run's model, checked
stable-ssl pack SOURCE OUT     a folder or a recipe's datasets as tar shards
stable-ssl [KEY=VALUE...]      start a run; what it knows follows

Each of the first eight explains itself with -h.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: one of `COMMANDS`, or else a run.

    Wrong input ends with one line and exit code 2, Ctrl-C with 130.

    Args:
        arguments: after the program's name; None reads them from the process.
    """
    with _interruptible():
        _run(sys.argv[1:] if arguments is None else list(arguments))


def launch(
    trainer: type[BaseTrainer] | None = None,
    config_name: str | None = None,
    config_path: str | Path | None = None,
) -> None:
    """Run a trainer as the command line says: `python my_idea.py ++optim.lr=0.3`.

    Args:
        trainer: a BaseTrainer subclass; None lets `model.name` choose.
        config_name: recipe where the command line names none; None is `base` for a
            given trainer, and `simclr` otherwise.
        config_path: folder of recipes, relative to the script, searched before its
            folder `configs` and the shipped recipes.

    Exits with 2 after one message where a person can mend what is wrong, with 1 where
    a run diverged or failed, with 128 + its number where a signal ended a run.
    """
    script = Path(inspect.stack()[1].filename).absolute().parent
    with _interruptible():
        from stable_ssl.commands import launcher

        launcher.start(sys.argv[1:], trainer, config_name, config_path, script)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C, most likely while torch is imported, end without a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)


def _run(arguments: Sequence[str]) -> None:
    """Run the command line; it may be interrupted."""
    first = arguments[0] if arguments else ""
    if first in COMMANDS:
        sys.exit(_command(first, arguments[1:]))
    if first.isidentifier():  # neither an option nor key=value
        from stable_ssl.config import recipes

        hint = (
            f"{first} is a recipe; start it by --config-name={first}"
            if first in recipes()
            else f"{first} is no command{nearest(first, COMMANDS)} (there are:"
            f" {', '.join(COMMANDS)}); a run takes options and KEY=VALUE"
        )
        print(f"error: {hint}", file=sys.stderr)
        sys.exit(2)
    from stable_ssl.commands import launcher

    if first in ("-h", "--help"):
        print(HELP, flush=True)
    launcher.start(arguments)


def _command(name: str, arguments: Sequence[str]) -> int:
    """Run a command by name; return the exit code."""
    command = importlib.import_module(COMMANDS[name])
    parser = argparse.ArgumentParser(
        prog=f"stable-ssl {name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    try:
        args = parser.parse_intermixed_args(arguments)  # KEY=VALUE after options, too
    except TypeError:  # of a command with actions of its own
        args = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _say  # restored with the filters
        try:
            return command.run(args) or 0
        except (ValueError, OSError) as error:  # ConfigError is a ValueError
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return 2


def _say(message: Warning | str, *_: object) -> None:
    """Print a warning as one line, without the file and line number."""
    print(f"warning: {printable(str(message))}", file=sys.stderr)
