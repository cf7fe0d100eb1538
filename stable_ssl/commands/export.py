"""The command `stable-ssl export`: a run that was trained, as files for deployment."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from stable_ssl.commands import rerun
from stable_ssl.schema import ConfigError
from stable_ssl.tools.export import WRITERS


def add_arguments(parser: ArgumentParser) -> None:
    """Describe `stable-ssl export`."""
    parser.description = (
        "Write the encoder of a run, and its classifier, to `deployment/` in its\n"
        "folder; each file is loaded again and compared with the model on real images."
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


def run(args: Namespace) -> int:
    """Start the run again to export it; return the exit code."""
    source = args.source.absolute()
    folder = source if source.is_dir() else source.parent.parent
    if not (folder / "config.yaml").is_file() or folder.parent.parent.name != "runs":
        raise ConfigError(
            f"{args.source} is neither a run folder nor a checkpoint in one; give"
            " .../runs/<experiment>/<run>, or a file of its folder ckpts"
        )
    overrides = [
        "mode=export",
        "log.resume=auto",
        f"log.experiment={json.dumps(folder.parent.name)}",
        f"log.run={json.dumps(folder.name)}",
        f"log.export.types=[{','.join(args.types)}]",
        f"log.load_from={'null' if source == folder else json.dumps(str(source))}",
    ]
    again = Namespace(run_folder=folder, overrides=overrides, dry_run=False)
    return rerun.run(again)
