"""A one-node Slurm from Debian packages; started where none runs, then stopped."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
CONFIGURATION = """
ClusterName=stablessl
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE OverSubscribe=YES
"""


def answers():
    """Return whether a Slurm with an idle node answers."""
    try:
        found = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and "idle" in found.stdout


def start(folder):
    """Start munged, slurmctld and slurmd; return what stops them."""
    cpus = os.cpu_count()
    memory = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20 * 0.8)
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    text = CONFIGURATION.format(folder=folder, cpus=cpus, memory=memory)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    (folder / "slurm.conf").write_text(text)

    key = Path("/etc/munge/munge.key")
    if not key.exists():
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_bytes(os.urandom(1024))
    shutil.chown(key, "munge", "munge")
    key.chmod(0o400)
    runtime = Path("/run/munge")
    runtime.mkdir(exist_ok=True)
    shutil.chown(runtime, "munge", "munge")
    runtime.chmod(0o755)

    processes = []

    def daemon(*command, **options):
        log = (folder / f"{command[0]}.out").open("w")
        processes.append(subprocess.Popen(command, stdout=log, stderr=log, **options))

    if subprocess.run(["munge", "-n"], capture_output=True).returncode:
        daemon("munged", "--foreground", "--force", user="munge", group="munge")
        wait(
            lambda: not subprocess.run(["munge", "-n"], capture_output=True).returncode
        )
    daemon("slurmctld", "-D")
    daemon("slurmd", "-D", "-N", "localhost")

    def stop():
        for process in reversed(processes):
            process.terminate()
        for process in reversed(processes):
            process.wait(30)

    return stop


def wait(condition, seconds=60):
    """Wait until a condition holds; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{condition} did not hold within {seconds} s")
        time.sleep(0.2)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """Make sure that a Slurm answers; stop afterwards what was started for it."""
    if answers():
        yield
        return
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no Slurm: {', '.join(missing)} not found (apt: slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("no Slurm answers, and only root can start one here")
    folder = tmp_path_factory.mktemp("slurm")
    stop = start(folder)
    try:
        wait(answers)
        yield
        # a job's result is there before its last step has ended
        subprocess.run(["scancel", f"--user={os.geteuid()}"])
        wait(lambda: not subprocess.run(["squeue", "-h"], capture_output=True).stdout)
    finally:
        stop()
        os.environ.pop("SLURM_CONF", None)
