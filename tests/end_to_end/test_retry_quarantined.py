"""`illume run --retry-quarantined` from a verdict to its end, through the command line. Processes are doubles."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import exit_code
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.shard_map import map_run
from orchestrator.shards import Shard, ShardInput, ShardOutcome
from orchestrator.stage import Location, Slot, StageContext, StageKind
from tests.orchestrator.test_cli import Answer

RECIPE = """
name: letters
stages:
  upper:
    kind: upper
    config: {root: ROOT}
    retry: {wait_s: 0.001, max_quarantined_share: 0.2}
  joined:
    kind: joined
    inputs: {letters: upper}
    config: {root: ROOT}
"""


@dataclass(frozen=True, kw_only=True)
class LettersConfig:
    root: Location


@dataclass(frozen=True, kw_only=True)
class Upper:
    """Fails at the item `f` as long as there is a file `broken`, e.g. a library of one version."""

    root: str

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        return self._work

    def _work(self, shard: ShardInput) -> ShardOutcome:
        with (Path(self.root) / "worked").open("a") as file:
            file.write(f"{shard.name}\n")
        if "f" in shard.items and (Path(self.root) / "broken").exists():
            raise ValueError("cannot decode f")
        (shard.output / f"{shard.name}.txt").write_text("".join(str(item).upper() for item in shard.items))
        return ShardOutcome(rows=len(shard.items))


def upper(config: LettersConfig, context: StageContext) -> Mapping[str, float]:
    shards = [Shard(name=f"s{n}", items=tuple("abcdefghijkl"[4 * n : 4 * n + 4])) for n in range(3)]
    for record in context.map_shards(Upper(root=str(config.root)), shards, label="letters", identity={}):
        context.adopt(record)
    return {}


def joined(config: LettersConfig, context: StageContext) -> Mapping[str, float]:
    files = sorted(context.input("letters").path.iterdir())
    (context.output / "all.txt").write_text("".join(file.read_text() for file in files))
    return {}


KINDS = {
    kind.name: kind
    for kind in (
        StageKind(name="upper", version=1, config=LettersConfig, run=upper, output="letters@1"),
        StageKind(
            name="joined",
            version=1,
            config=LettersConfig,
            run=joined,
            output="letters@1",
            inputs={"letters": Slot(kind="letters@1")},
        ),
    )
}


@dataclass(kw_only=True, eq=False)
class Call:
    thunk: Callable[[], Any]

    def result(self) -> Any:
        return self.thunk()


@dataclass(kw_only=True, eq=False)
class Process:
    """Works in this process."""

    host: Any

    def call(self, method: str, *arguments: Any) -> Call:
        return Call(thunk=lambda: getattr(self.host, method)(*arguments))

    def kill(self) -> None: ...


@pytest.fixture
def illume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    def spawn(_cluster: Cluster, holder: Callable[..., Any], *arguments: Any, resources: object) -> Process:
        return Process(host=holder(*arguments))

    def wait(_cluster: Cluster, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        return list(calls[:1])

    monkeypatch.setattr(Cluster, "spawn", spawn)
    monkeypatch.setattr(Cluster, "wait", wait)
    monkeypatch.setattr(Cluster, "connect", lambda _cluster: None)
    monkeypatch.setattr(map_run, "POLL_S", 0.002)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ILLUME_TRACKING", "none")
    (tmp_path / "letters.yaml").write_text(RECIPE.replace("ROOT", str(tmp_path)))

    def call(*arguments: str) -> Answer:
        code = exit_code(list(arguments), KINDS)
        captured = capsys.readouterr()
        return Answer(code=code, out=captured.out, err=captured.err)

    return call


def actions(illume: Callable[..., Answer], *arguments: str) -> dict[str, str]:
    plan = illume("plan", "letters.yaml", "--json", *arguments).data
    return {stage["id"]: stage["action"] for stage in plan["stages"]}


def result(illume: Callable[..., Answer]) -> str:
    return (Path(illume("path", "last:joined").out.strip()) / "all.txt").read_text()


def test_a_quarantined_item_is_left_out_until_it_is_tried_again(illume: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    first = illume("run", "letters.yaml")
    assert first.code == 0, first.err
    assert result(illume) == "ABCDEGHIJKL"
    (record,) = [
        entry
        for path in (tmp_path / ".illume/store/shards").rglob("*.json")
        for entry in json.loads(path.read_text()).get("outcome", {}).get("quarantined", ())
    ]
    assert (record["item"], record["found_by"], len(record["tries"])) == ("f", "search", 2)

    (tmp_path / "broken").unlink()
    again = illume("run", "letters.yaml")
    assert again.code == 0
    assert result(illume) == "ABCDEGHIJKL", "a verdict stands until somebody asks"
    assert actions(illume) == {"upper": "reuse", "joined": "reuse"}
    assert actions(illume, "--retry-quarantined") == {"upper": "run", "joined": "run"}
    assert "1 quarantined item" in illume("plan", "letters.yaml", "--retry-quarantined").out

    (tmp_path / "worked").unlink()
    retried = illume("run", "letters.yaml", "--retry-quarantined")
    assert retried.code == 0, retried.err
    assert (tmp_path / "worked").read_text().split() == ["s1"], "only the shard with the item is made again"
    assert result(illume) == "ABCDEFGHIJKL"
    assert actions(illume, "--retry-quarantined") == {"upper": "reuse", "joined": "reuse"}
    assert illume("verify", "--json").data["problems"] == []


def test_an_item_that_fails_again_is_quarantined_again(illume: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    assert illume("run", "letters.yaml").code == 0
    retried = illume("run", "letters.yaml", "--retry-quarantined")
    assert retried.code == 0, retried.err
    assert result(illume) == "ABCDEGHIJKL"
    assert actions(illume) == {"upper": "reuse", "joined": "reuse"}
