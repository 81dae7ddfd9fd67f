"""Workers on Ray broken at every write of a shard: the run finishes by itself with the files of an undisturbed one."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.workspace import Workspace
from tests.chaos.invariants import check_decisions_kept, decisions

pytestmark = pytest.mark.ray

DRIVER = Path(__file__).parents[1] / "orchestrator" / "squares_driver.py"
SHARD_POINTS = ("shard.files", "shard.outcome", "shard.commit")


def run(root: Path, *arguments: str, failpoints: str = "", path: str = "") -> tuple[int, str]:
    """Exit code, and what was printed or complained about. `path`: searched for modules before all others."""
    marks = root / "marks"
    marks.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "ILLUME_FAILPOINTS": failpoints,
        "ILLUME_FAILPOINTS_ONCE": str(marks),
        "PYTHONPATH": os.pathsep.join(filter(None, [path, str(Path(__file__).parents[2])])),
        "SQUARES_PAUSE_S": "0.05",
    }
    command = [sys.executable, str(DRIVER), str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    code, out = run(tmp_path_factory.mktemp("quiet"))
    assert code == 0, out
    found: dict[str, str] = json.loads(out)
    return found


def test_workers_killed_at_each_point_cost_their_shards_only(quiet: dict[str, str], tmp_path: Path) -> None:
    """One worker dies at each of the three points, all in one run."""
    code, out = run(tmp_path, failpoints=";".join(f"{point}=kill@2" for point in SHARD_POINTS))
    assert code == 0, out
    assert json.loads(out) == quiet
    assert {path.name for path in (tmp_path / "marks").iterdir()} == set(SHARD_POINTS)
    done = Counter((tmp_path / "worked").read_text().split())
    again = {name: count - 1 for name, count in done.items() if count > 1}
    assert set(again) <= {f"s{number}" for number in range(8)}
    # Behind the outcome nothing is lost: the next worker finishes the commit instead of doing the work again.
    assert sum(again.values()) <= len(SHARD_POINTS)
    _check_shards(tmp_path)


def test_lost_acknowledgements_of_shards_are_no_harm(quiet: dict[str, str], tmp_path: Path) -> None:
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
    code, out = run(tmp_path, failpoints="shard.outcome=kill@2", path=str(skew))
    assert code == 0, out
    assert json.loads(out) == quiet
    assert len(list(skew.glob("worker-*"))) >= 2
    done = Counter((tmp_path / "worked").read_text().split())
    assert sum(done.values()) - len(done) <= 1
    _check_shards(tmp_path)


def _check_shards(root: Path) -> None:
    with Workspace.open(root=root / "illume", tracking_url="none") as workspace:
        shards = list(workspace.ledger.all())
        assert len(shards) == 8
        assert all(workspace.ledger.verify(shard.stage_kind, shard.fingerprint) == [] for shard in shards)
