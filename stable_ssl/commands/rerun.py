"""The command `stable-ssl rerun`: a run again, from its own config.yaml."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from stable_ssl.commands import launcher, trust
from stable_ssl.commands.jobs import quoted
from stable_ssl.config import complete, compose
from stable_ssl.distributed import choose_device
from stable_ssl.distributed.placement import to_spawn
from stable_ssl.loggers.environment import git_state, machine
from stable_ssl.loggers.own_code import changes, recorded
from stable_ssl.loggers.table import Table, printable
from stable_ssl.methods import METHODS
from stable_ssl.recorded import runs_folder
from stable_ssl.schema import ConfigError
from stable_ssl.secrets import masked_keys
from stable_ssl.tools.runs import flat, read_run

MACHINE = ("python", "platform", "host", "device", "device_name", "cpus", "library")
UNKNOWN = {"argv": [""], "cwd": ".", "device": "cpu", "processes": 1}
UNKNOWN |= {"git": {}, "packages": {}, "trainer": ""}  # where a launch does not say
PACKAGES = (  # whose versions may change a figure
    "stable-ssl torch torchvision timm numpy scipy scikit-learn pillow albumentations"
    " kornia torchmetrics hydra-core omegaconf"
).split()


def add_arguments(parser: ArgumentParser) -> None:
    """Describe `stable-ssl rerun`."""
    parser.description = (
        "Start a run again from its own config.yaml, as a new run beside it, and say\n"
        "what differs in the environment. Where a script of one's own had started it,\n"
        "that starts it. On the same software and machine the rows come out the same.\n"
        "What it would execute besides the library is shown, and asked for."
    )
    parser.epilog = (
        "examples:\n"
        "  stable-ssl rerun logs/runs/simclr/20261120_154400_2\n"
        "  stable-ssl rerun logs/runs/simclr/20261120_154400_2 hardware.seed=3\n"
        "  stable-ssl rerun logs/runs/mine/20261120_154400_2 --script my_idea.py\n"
        "  stable-ssl rerun logs/runs/simclr/20261120_154400_2 --dry-run"
    )
    option = parser.add_argument
    option("run_folder", metavar="RUN_FOLDER", type=Path)
    option("overrides", nargs="*", metavar="KEY=VALUE", help="what is to be different")
    option("--dry-run", action="store_true", help="only say what differs, and how")
    add_trust(parser)


def add_trust(parser: ArgumentParser) -> None:
    """Add what a reader says of a run folder's code beforehand."""
    option = parser.add_argument
    text = (
        "execute what the run folder names, whatever it is; only for folders you know"
    )
    option("--trust", action="store_true", help=text)
    text = "start this script of yours; modules in its folder are trusted"
    option("--script", metavar="FILE", type=Path, help=text)


def run(args: Namespace) -> int:
    """Say what differs, then start the run; return its exit code."""
    folder: Path = args.run_folder
    run, launched = read_run(folder), _last_launch(folder)
    changed = {override.lstrip("+~").partition("=")[0] for override in args.overrides}
    composed = compose("config", args.overrides, [folder])
    config = complete(composed)
    _warn_of_defaults(folder, {*run.flat, *changed}, config)
    _require_secrets(run.config, changed, folder)
    script, own = args.script, None
    if script is None:
        script = _script(launched, config.model.get("name"), folder)
        scripts = trust.of_a_script(script, folder)
    elif script.is_file():
        scripts, own = [], script.absolute().parent
    else:
        raise ConfigError(f"--script {script} is no file; give a script of your own")
    named = trust.uses(folder, OmegaConf.to_container(composed), own)
    named = trust.of_the_record(folder, named)
    named += trust.of_the_working_folder(folder)
    if not args.dry_run:
        trust.agree(folder, [*scripts, *named], args.trust)
    program = ["stable-ssl"] if script is None else [sys.executable, str(script)]
    arguments = ["--config-dir", str(folder.absolute()), "--config-name", "config"]
    arguments += ["--trust"] * (bool(named) and not args.dry_run)
    arguments += [*args.overrides, *_further(folder, changed, launched, config)]
    code = None if args.dry_run or script is None else script.parent
    device = choose_device(config.hardware)
    print(differences(launched, device, folder, code), end="\n\n")
    if args.dry_run and (scripts or named):
        print(trust.shown([*scripts, *named]), end="\n\n")
    print(printable(shlex.join([*program, *arguments])), end="\n\n", flush=True)
    if args.dry_run:
        return 0
    if script is not None:
        return subprocess.run([*program, *arguments]).returncode
    launcher.start(arguments)
    return 0


def _require_secrets(
    recorded: Mapping[str, Any], changed: set[str], folder: Path
) -> None:
    """Refuse to start without the secrets that a config.yaml masks.

    Raises:
        ConfigError: names the key to give.
    """
    for name in masked_keys(recorded):
        if name not in changed:
            raise ConfigError(
                f"{name} was a secret and is masked in {folder}/config.yaml; give it:"
                f" stable-ssl rerun {folder} {name}=..."
            )


def _further(
    folder: Path, changed: set[str], launched: Mapping[str, Any], config: DictConfig
) -> list[str]:
    """Return overrides for a new run beside a folder, of as many processes."""
    overrides = ["log.run=null"] * ("log.run" not in changed)
    runs = runs_folder(folder)
    if "log.folder" not in changed and runs is not None:
        overrides.append(f"log.folder={quoted(str(runs.parent))}")
    processes = launched.get("processes", 1)  # torchrun or Slurm may have started them
    chosen = changed & {"hardware.processes", "hardware.gpus"}
    if processes > to_spawn(config.hardware) and not chosen:
        key = "processes" if launched["device"] == "cpu" else "gpus"
        overrides.append(f"hardware.{key}={processes}")
    return overrides


def differences(
    launched: Mapping[str, Any],
    device: torch.device,
    folder: Path,
    code: Path | None = None,
) -> Table:
    """Return what differs between the environment of a run and that of now.

    Args:
        launched: the last launch in environment.json; empty if there is none.
        device: of now.
        folder: of the run, named above the table.
        code: whose state in git is compared; None asks no git.
    """
    header = ("", "then", "now")
    if not launched:
        title = "environment.json is missing or broken: nothing to compare"
        return Table(title, header, ())
    title = f"environment of {folder.absolute().name}, and of now"
    now = machine(device)
    rows = [(name, str(launched.get(name)), str(now[name])) for name in MACHINE]
    rows.append(("folder", str(launched.get("cwd")), now["cwd"]))
    old, new = (
        {name.lower().replace("_", "-"): str(v) for name, v in packages.items()}
        for packages in (launched["packages"], now["packages"])
    )
    rows += [(name, old.get(name, "-"), new.get(name, "-")) for name in PACKAGES]
    if code is not None:
        git = [launched["git"], git_state(code)]
        rows.append(("git commit", *(str(g.get("commit"))[:10] for g in git)))
        diffs = [str(g.get("diff") or "") for g in git]
        if diffs[0] != diffs[1]:
            lines = (f"{len(diff.splitlines())} lines" for diff in diffs)
            rows.append(("not committed", *lines))
    kept = recorded(folder)
    rows += [(f"code {name}", "kept", how) for name, how in changes(kept).items()]
    rows = [row for row in rows if row[1] != row[2]]
    others = {n for n in old.keys() | new.keys() if old.get(n) != new.get(n)}
    others -= set(PACKAGES)
    notes = [f"{len(others)} other packages differ"] * bool(others)
    same = "" if rows or others else ": the same"
    return Table(f"{title}{same}", header, rows, notes=notes)


def _warn_of_defaults(folder: Path, set_keys: set[str], config: DictConfig) -> None:
    """Warn of keys that are newer than a run: they take the defaults of now."""
    newer = [
        key
        for key in flat(OmegaConf.to_container(config))
        if not any(f"{key}.".startswith(f"{k}.") for k in set_keys)
    ]
    if newer:
        warnings.warn(
            f"{folder}/config.yaml is older than these keys, which take the defaults of"
            f" now: {', '.join(newer)}",
            stacklevel=2,
        )


def _last_launch(folder: Path) -> dict[str, Any]:
    """Return the last launch in environment.json, empty where it has none."""
    try:
        launch = json.loads((folder / "environment.json").read_text())[-1]
        launch = UNKNOWN | {k: v for k, v in launch.items() if v is not None}
        kinds = [isinstance(launch[k], type(UNKNOWN[k])) for k in UNKNOWN]
        texts = [isinstance(argument, str) for argument in launch["argv"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return launch if all([*kinds, *texts, texts]) else {}


def _script(
    launched: Mapping[str, Any], method: str | None, folder: Path
) -> Path | None:
    """Return the script that had started a run; None where `stable-ssl` can.

    Raises:
        ConfigError: only a script knows the trainer, and it cannot be found.
    """
    program = Path(launched.get("cwd", "."), launched.get("argv", [""])[0])
    is_script = program.suffix == ".py" and "site-packages" not in program.parts
    if is_script and program.is_file():
        return program
    name, trainer = str(method).lower(), launched.get("trainer")
    own = f"stable_ssl.methods.{name}.{METHODS.get(name)}"  # that `stable-ssl` starts
    other = trainer and name in METHODS and trainer != own
    if method is None or other:
        named = f"trained {trainer}" if other else "names no method"
        reason = "no script is on record"
        if is_script:
            reason = f"{program} is no script any more"
        raise ConfigError(
            f"{folder} {named}, and {reason}; start your own:"
            f" stable-ssl rerun {folder} --script my_script.py"
        )
    return None
