"""A real Slurm of several nodes on this machine: one controller and a daemon for each node, on ports of their own.

Needs root and Debian's slurmctld, slurmd and slurm-client. Nothing outside the folder is used or changed.
"""

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

COMMANDS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
BRING = "apt-get install --no-install-recommends slurmctld slurmd slurm-client"
NODES = ("n1", "n2", "n3")
CONFIG = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
ReturnToService=2
FirstJobId={first_job}
SlurmdTimeout=40
BatchStartTimeout=300
MessageTimeout=60
KillWait=5
MinJobAge=60
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
{notice}
{nodes}
PartitionName=main Nodes=n[1-3] Default=YES MaxTime=60 PriorityTier=1 PreemptMode=CANCEL GraceTime=300
PartitionName=urgent Nodes=n[1-3] MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""


@dataclass(frozen=True, kw_only=True)
class Lab:
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: str) -> str:
        done = subprocess.run(words, env={**os.environ, **self.environment}, capture_output=True, text=True, check=True)
        return done.stdout

    def kill_node(self, name: str) -> None:
        """The daemon of a node dies, and with it everything that it started, as if its power were cut."""
        pid = int((self.folder / f"slurmd-{name}.pid").read_text())
        processes = [psutil.Process(pid)]
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("SLURMD_NODENAME") == name:
                processes.append(process)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def start_node(self, name: str) -> None:
        self.command("slurmd", "-N", name)


def require_slurm() -> None:
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: {BRING}")
    if os.geteuid() != 0:
        pytest.skip("needs root, to start Slurm's daemons for several nodes on one machine")


@contextmanager
def lab(folder: Path, *, notice: bool = True) -> Iterator[Lab]:
    """Up in well under a second; down with everything that its jobs left. Without notice, a preemption is SIGTERM."""
    found = Lab(folder=folder)
    ports = free_ports(1 + len(NODES))
    (folder / "state").mkdir(parents=True)
    for name in NODES:
        (folder / f"spool-{name}").mkdir()
    host = socket.gethostname().partition(".")[0]
    lines = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000"
        for name, port in zip(NODES, ports[1:], strict=True)
    ]
    parameters = "SlurmctldParameters=preempt_send_user_signal" if notice else ""
    first_job = random.randrange(1, 10_000_000)  # ports follow from it, and another lab may be at work on this machine
    text = CONFIG.format(
        host=host, ports=ports, folder=folder, nodes="\n".join(lines), notice=parameters, first_job=first_job
    )
    (folder / "slurm.conf").write_text(text)
    try:
        found.command("slurmctld", "-c")
        for name in NODES:
            found.start_node(name)
        wait_until_idle(found)
        yield found
    finally:
        for process in psutil.process_iter(["environ", "name"]):
            if (process.info["environ"] or {}).get("SLURM_CONF") == found.environment["SLURM_CONF"]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def wait_until_idle(found: Lab, timeout_s: float = 300.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while found.command("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D").strip() != str(len(NODES)):
        assert time.monotonic() < give_up_at, (found.folder / "slurmctld.log").read_text()[-3000:]
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one_socket in sockets:
            one_socket.bind(("127.0.0.1", 0))
        return [int(one_socket.getsockname()[1]) for one_socket in sockets]
    finally:
        for one_socket in sockets:
            one_socket.close()
