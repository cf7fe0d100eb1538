"""The command `stable-ssl paper`: the table that one file states, from its runs.

The file says what stands in a paper's table: rows are recipes with overrides, columns
are metrics on one or several data sets, each cell a mean over seeds. What is missing is
run, each run a process of its own; a run that was cut off goes on where it was. A run's
folder is named by its row, its seed, and a hash of its configuration: who changes the
file gets new runs, and keeps the old.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from stable_ssl.commands.jobs import use_own_modules
from stable_ssl.commands.paper_plan import beside, plan
from stable_ssl.config import load_config
from stable_ssl.loggers.table import printable
from stable_ssl.recorded import is_run_folder
from stable_ssl.schema import ConfigError
from stable_ssl.tools import paper_file
from stable_ssl.tools.paper_results import (
    ENDED,
    Planned,
    Result,
    is_refused,
    is_to_be_made,
    name_of,
    read_folder,
    status,
)
from stable_ssl.tools.paper_store import by_name, stored
from stable_ssl.tools.paper_table import PaperTable
from stable_ssl.tools.run_keys import MOST
from stable_ssl.tools.seed_statistics import INTERVALS

START = "from stable_ssl.commands import main; main()"
SAID = 15  # last lines of a failed run


def add_arguments(parser: ArgumentParser) -> None:
    """Describe `stable-ssl paper`."""
    parser.description = (
        "Run what is missing of the table that a file states, and write the table as\n"
        "Markdown, LaTeX and JSON, with a figure and a page of its runs."
    )
    parser.epilog = (
        "examples:\n"
        "  stable-ssl paper papers/digits.yaml\n"
        "  stable-ssl paper papers/digits.yaml --rows simclr byol --jobs 2\n"
        "  stable-ssl paper my_table.yaml --jobs 30 hydra/launcher=submitit_slurm\n"
        "  stable-ssl paper my_table.yaml --dry-run\n"
        "  stable-ssl paper papers/digits.yaml --out benchmarks/digits --recorded\n\n"
        "Started again, it goes on with what is missing or was cut off."
    )
    option = parser.add_argument
    option("file", metavar="TABLE.yaml", type=Path)
    text = "of every run: where its data lies, how it is launched"
    option("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    option("--rows", nargs="+", metavar="TITLE", help="make runs of these alone")
    option("--jobs", type=int, default=1, metavar="N", help="runs at once; default: 1")
    option(
        "--folder", help="of the runs; default: log.folder's, $OUTPUT_ROOT or ./logs"
    )
    text = "start of the files' names; default: <folder>/paper/<name of the table>"
    option("--out", type=Path, metavar="PATH", help=text)
    option("--interval", choices=INTERVALS, default="std", help="beside each mean")
    option("--dry-run", action="store_true", help="only list the runs to be made")
    option("--no-runs", action="store_true", help="only write what is there")
    text = "count runs as <PATH>.json has them where their folders are gone"
    option("--recorded", action="store_true", help=text)


def run(args: Namespace) -> int:
    """Run what is missing, then write the table; return the exit code."""
    if args.jobs < 1:
        raise ConfigError(f"found --jobs {args.jobs}; give 1 or more")
    use_own_modules()
    paper = paper_file.read(args.file)
    local = [o for o in args.overrides if o.lstrip("+").startswith("local=")]
    folder = args.folder or load_config("base", local, beside()).log.folder
    runs = plan(paper, args.file.stem, folder, args.overrides)
    rows = paper.titles(args.rows) if args.rows else [row.title for row in paper.rows]
    out = args.out or Path(folder, "paper", args.file.stem)
    recorded = _recorded(Path(f"{out}.json"), runs, args.recorded)
    asked = {one: status(one) for one in runs if one.row in rows}
    names = set(map(name_of, paper.columns))
    whole = {one: r.status for one, r in recorded.items() if _is_whole(r, names)}
    asked |= {one: whole[one] for one in asked if one in whole}
    waiting = [one for one, how in asked.items() if is_to_be_made(how)]
    print(f"{args.file}: {len(asked)} runs, {len(waiting)} to be made", flush=True)
    for one, how in asked.items():
        if how == "running":
            print(f"{one.folder.name} is running already", flush=True)
    if args.dry_run:
        for one in waiting:
            print(printable(shlex.join(["stable-ssl", *one.line])))
        _say_refused(asked)
        return 0
    if not args.no_runs:
        _run_all(waiting, args.jobs)
    line = ["stable-ssl", "paper", str(args.file), *args.overrides]
    line += ["--interval", args.interval] * (args.interval != "std")
    results = {one: read_folder(one, paper.columns) for one in runs}
    results |= {o: r for o, r in recorded.items() if results[o].status == "not begun"}
    missing = [one for one in asked if not _is_whole(results[one], names)]
    table = PaperTable(paper, results, shlex.join(line), args.interval)
    print(f"\n{table.text()}\n")
    for path in table.write(out):
        print(f"wrote {path}")
    again = f"remove their folders{', or leave out --recorded' * args.recorded}"
    _say_code(
        "were made by another version of the library than this one, or of your modules;"
        f" to make them again, {again}",
        [one for one, result in results.items() if result.of_other_code],
        len(runs),
    )
    _say_code(
        "do not say which version of the library made them",
        [one for one, result in results.items() if result.of_unknown_code],
        len(runs),
    )
    _say_refused({one: result.status for one, result in results.items()})
    if missing:
        count = f"{len(missing)} of {len(asked)} runs"
        print(f"{count} have not come to their end; start it again for them")
    return 1 if missing and not args.no_runs else 0


def _say_code(what: str, found: Sequence[Planned], of: int) -> None:
    """Print what is to be said of the code of some runs, of a number of all."""
    if found:
        names = ", ".join(one.folder.name for one in found[:MOST])
        print(
            f"{len(found)} of {of} runs {what}: {names}{', ...' * (len(found) > MOST)}"
        )


def _say_refused(statuses: Mapping[Planned, str]) -> None:
    """Print which folders are neither counted nor changed, and what to do."""
    for one, how in statuses.items():
        if is_refused(how):
            said = f"{one.folder} is left as it is, {how}; it counts in no mean"
            print(printable(f"{said}: remove or rename it, and start again"))


def _is_whole(result: Result, names: Set[str]) -> bool:
    """Return whether a run ended, and was asked for all values of some names."""
    return result.status in ENDED and names <= result.values.keys()


def _recorded(
    table: Path, runs: Sequence[Planned], asked: bool
) -> dict[Planned, Result]:
    """Return what an earlier table has of runs whose folders are gone, if asked.

    Raises:
        ConfigError: it is asked, and there is none; or what is there is no table, and
            would be written over.
    """
    known = by_name(stored(table))
    if not asked:
        return {}
    if not table.is_file():
        raise ConfigError(f"no {table}; --recorded takes runs from there")
    gone = [one for one in runs if not is_run_folder(one.folder)]
    return {one: known[one.folder.name] for one in gone if one.folder.name in known}


# --- running --------------------------------------------------------------------------


def _run_all(runs: Sequence[Planned], jobs: int) -> None:
    """Run all, some at once; print a line each, and of those without an end why."""
    with _pool(jobs) as pool:
        futures = {pool.submit(_run_one, one, jobs): one for one in runs}
        for number, future in enumerate(as_completed(futures), start=1):
            one, (said, seconds) = futures[future], future.result()
            how = status(one)
            title = ", ".join(filter(None, [one.row, one.data, f"seed {one.seed}"]))
            print(f"[{number}/{len(runs)}] {title}: {how}, {seconds:.0f} s", flush=True)
            if how not in ENDED and said:
                print(printable(said, kept="\n"), file=sys.stderr, flush=True)


@contextmanager
def _pool(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads; one that is interrupted starts nothing more."""
    pool = ThreadPoolExecutor(jobs)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _run_one(one: Planned, jobs: int) -> tuple[str, float]:
    """Run one in a process of its own; return its last lines, and its seconds.

    Nothing is done where another command has made it since, or is at it.
    """
    begin = time.monotonic()
    if not is_to_be_made(status(one)):
        return "", 0.0
    threads = {} if jobs == 1 else {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", START, *one.line],
        env={**threads, **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    said = "\n".join(done.stdout.splitlines()[-SAID:])
    return said, time.monotonic() - begin
