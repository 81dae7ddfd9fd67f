"""Workers on Ray fail at every write of a shard: the run finishes by itself with the files of an undisturbed one."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from orchestrator.shard_map.groups import GROUP_S
from orchestrator.store.layout import RUNS
from orchestrator.workspace import Workspace
from tests.chaos.invariants import check_decisions_kept, decisions

pytestmark = pytest.mark.ray

DRIVER = Path(__file__).parents[1] / "orchestrator" / "shard_map" / "squares_driver.py"
SHARD_POINTS = ("shard.files", "shard.outcome", "shard.commit")


def run(
    root: Path, *arguments: str, failpoints: str = "", path: str = "", environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Exit code, and everything printed. `path`: searched for modules before all others."""
    marks = root / "marks"
    marks.mkdir(parents=True, exist_ok=True)
    variables = {
        **os.environ,
        "ILLUME_FAILPOINTS": failpoints,
        "ILLUME_FAILPOINTS_ONCE": str(marks),
        "PYTHONPATH": os.pathsep.join(filter(None, [path, str(Path(__file__).parents[2])])),
        "SQUARES_PAUSE_S": "0.05",
        **(environment or {}),
    }
    command = [sys.executable, str(DRIVER), str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=variables)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    code, out = run(tmp_path_factory.mktemp("quiet"))
    assert code == 0, out
    found: dict[str, str] = json.loads(out)
    return found


def test_workers_killed_at_each_point_cost_their_shards_only(quiet: dict[str, str], tmp_path: Path) -> None:
    """One worker dies at each of the three points, all in one run. Shards of this length run one by one."""
    environment = {"SQUARES_PAUSE_S": str(GROUP_S / 2 + 0.1)}
    code, out = run(tmp_path, failpoints=";".join(f"{point}=kill@2" for point in SHARD_POINTS), environment=environment)
    assert code == 0, out
    assert json.loads(out) == quiet
    assert {path.name for path in (tmp_path / "marks").iterdir()} == set(SHARD_POINTS)
    done = Counter((tmp_path / "worked").read_text().split())
    again = {name: count - 1 for name, count in done.items() if count > 1}
    assert set(again) <= {f"s{number}" for number in range(8)}
    # Behind the outcome nothing is lost: the next worker finishes the commit instead of doing the work again.
    assert sum(again.values()) <= len(SHARD_POINTS)
    _check_shards(tmp_path)


def test_lost_acknowledgements_of_shards_do_no_harm(quiet: dict[str, str], tmp_path: Path) -> None:
    code, out = run(tmp_path, failpoints=";".join(f"{point}=raise@2" for point in SHARD_POINTS))
    assert code == 0, out
    assert json.loads(out) == quiet
    before = decisions(tmp_path)
    code, out = run(tmp_path, "--again")
    assert (code, json.loads(out)) == (0, quiet)
    check_decisions_kept(before, decisions(tmp_path))
    _check_shards(tmp_path)


SKEW = """
import os, sys, time
if any("default_worker" in word for word in sys.orig_argv):
    real = time.time
    time.time = lambda: real() + 600 * (1 if os.getpid() % 2 else -1)
    open(os.path.join(os.path.dirname(__file__), f"worker-{os.getpid()}"), "w").close()
"""


def test_clocks_of_workers_do_not_matter(quiet: dict[str, str], tmp_path: Path) -> None:
    """I10: each worker's clock is ten minutes ahead or behind; one of them dies."""
    skew = tmp_path / "skew"
    skew.mkdir()
    (skew / "sitecustomize.py").write_text(SKEW)
    environment = {"SQUARES_PAUSE_S": str(GROUP_S + 0.1)}  # shards of this length run one by one
    code, out = run(tmp_path, failpoints="shard.outcome=kill@2", path=str(skew), environment=environment)
    assert code == 0, out
    assert json.loads(out) == quiet
    assert len(list(skew.glob("worker-*"))) >= 2
    done = Counter((tmp_path / "worked").read_text().split())
    assert sum(done.values()) - len(done) <= 1
    _check_shards(tmp_path)


def test_two_workers_that_do_not_fit_into_memory_become_one(quiet: dict[str, str], tmp_path: Path) -> None:
    """Ray kills a worker when the machine's memory runs low; it is enough for the ballast of one worker, not of two."""
    memory = psutil.virtual_memory()
    ballast_mib = 2048
    limit = (memory.total - memory.available) / 2**20 + 700 + 1.5 * ballast_mib  # Ray itself takes some 600 MiB
    if limit > 0.9 * memory.total / 2**20:
        pytest.skip(f"only {memory.available / 2**20:.0f} MiB of memory are free")
    environment = {
        "RAY_memory_usage_threshold": f"{limit * 2**20 / memory.total:.4f}",
        "RAY_memory_monitor_refresh_ms": "100",
        "SQUARES_BALLAST_MIB": str(ballast_mib),
        "SQUARES_PAUSE_S": "1",
    }
    code, out = run(tmp_path, environment=environment)
    assert code == 0, out
    assert json.loads(out) == quiet
    with Workspace.open(root=tmp_path / "illume", tracking_url="none") as workspace:
        (run_id,) = workspace.store.folders(RUNS)
        events = workspace.runs.events(run_id)
    classes = {str(event.fields.get("failure") or event.fields.get("failure_class") or "") for event in events} - {""}
    assert classes == {"host_oom"}, [(event.kind, event.fields) for event in events if event.kind == "worker_lost"]
    _check_shards(tmp_path)


def _check_shards(root: Path) -> None:
    with Workspace.open(root=root / "illume", tracking_url="none") as workspace:
        shards = list(workspace.ledger.all())
        assert len(shards) == 8
        assert all(workspace.ledger.verify(shard.key) == [] for shard in shards)
