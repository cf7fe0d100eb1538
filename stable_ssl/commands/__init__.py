"""The command `stable-ssl`: results of runs by name, anything else a run to start."""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence

from stable_ssl.loggers.table import printable
from stable_ssl.schema import nearest

COMMANDS = {  # name: module with `add_arguments(parser)` and `run(args)`
    "table": "stable_ssl.tools.table",
    "plot": "stable_ssl.tools.plot",
    "report": "stable_ssl.tools.page",
    "rerun": "stable_ssl.commands.rerun",
    "export": "stable_ssl.commands.export",
}
HELP = """\
stable-ssl table RUNS...       means over seeds, as text, Markdown, CSV or LaTeX
stable-ssl plot RUNS...        figures of runs, as PDF and PNG
stable-ssl report RUNS...      one HTML page to look at runs
stable-ssl rerun RUN_FOLDER    start a run again from its own config.yaml
stable-ssl export RUN_FOLDER   TorchScript and the like of a run's model, checked
stable-ssl [KEY=VALUE...]      start a run; what it knows follows

Each of the first five explains itself with -h.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: one of `COMMANDS`, or else a run.

    Wrong input ends with one line and exit code 2, Ctrl-C with 130.

    Args:
        arguments: after the program's name; None reads them from the process.
    """
    try:
        _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:  # most likely while torch is imported
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
