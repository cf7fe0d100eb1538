"""The command `stable-ssl export`: a run that was trained, as files for deployment."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from stable_ssl.commands import rerun
from stable_ssl.commands.jobs import quoted
from stable_ssl.recorded import is_run_folder, links_out, runs_folder
from stable_ssl.schema import ConfigError
from stable_ssl.tools.export import WRITERS


def add_arguments(parser: ArgumentParser) -> None:
    """Describe `stable-ssl export`."""
    parser.description = (
        "Write the encoder of a run, and its classifier, to `deployment/` in its\n"
        "folder; each file is loaded again and compared with the model on real\n"
        "images. What that would execute besides the library is shown, and asked for."
    )
    parser.epilog = (
        "examples:\n"
        "  stable-ssl export logs/runs/simclr/20261120_154400_2\n"
        "  stable-ssl export logs/runs/simclr/20261120_154400_2/ckpts/best.ckpt"
        " --types torch_export safetensors"
    )
    option = parser.add_argument
    option(
        "source",
        metavar="RUN_OR_CHECKPOINT",
        type=Path,
        help="a run folder, which stands for its newest checkpoint, or a checkpoint",
    )
    option("--types", nargs="+", choices=list(WRITERS), default=["torchscript"])
    rerun.add_trust(parser)


def run(args: Namespace) -> int:
    """Start the run again to export it; return the exit code."""
    source = args.source.absolute()
    folder = source if source.is_dir() else source.parent.parent
    runs = runs_folder(folder)
    if runs is None or not is_run_folder(folder):
        raise ConfigError(
            f"{args.source} is neither a run folder nor a checkpoint in one; give"
            " .../runs/<experiment>/<run>, or a file of its folder ckpts"
        )
    if (links := links_out(folder)) and not args.trust:
        raise ConfigError(
            f"{links[0]} is a link out of the run folder, through which an export may"
            " write; remove it, or give --trust if it is yours"
        )
    experiment = folder.parent.relative_to(runs).as_posix()
    overrides = [
        "mode=export",
        "log.resume=auto",
        f"log.experiment={quoted(experiment)}",
        f"log.run={quoted(folder.name)}",
        f"log.export.types=[{','.join(args.types)}]",
        f"log.load_from={'null' if source == folder else quoted(str(source))}",
    ]
    again = Namespace(run_folder=folder, overrides=overrides, dry_run=False)
    again.trust, again.script = args.trust, args.script
    return rerun.run(again)
