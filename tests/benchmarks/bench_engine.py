"""What durability costs: the engine next to the same functions called on bare Ray, per stage, per map and per shard.

Run: python tests/benchmarks/bench_engine.py [--shards 200] [--stages 20] [--bytes 10000] [--repeats 5]
Both sides write the same files with the same number of worker processes of one Ray, in turns; medians are shown.
Everything is measured with few and with many shards or stages: the slope is the cost of one, the rest comes once.
Bare Ray neither digests, syncs nor records anything, so what its files are is lost with the driver.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import ray
from ray.util import ActorPool

from orchestrator.cluster.ray_cluster import Cluster, LocalRay
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.stage_identity import PlanView
from orchestrator.shards import Shard, ShardInput, ShardOutcome
from orchestrator.stage import Recipe, Resources, RetryPolicy, Slot, StageContext, StageKind, StageSpec
from orchestrator.workspace import Workspace

FEW = 2
Place = tuple[str, str, int]  # side, what is measured, how many of it


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    shards: int
    bytes: int  # of each file
    round: int  # makes each repeat an artifact of its own


@dataclass(frozen=True, kw_only=True)
class FileWriter:
    bytes: int

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        return self._work

    def _work(self, shard: ShardInput) -> ShardOutcome:
        write_file(shard.output, shard.name, self.bytes)
        return ShardOutcome(rows=1)


def write_file(folder: Path, name: str, num_bytes: int) -> None:
    (folder / name).write_bytes(name[-1:].encode() * num_bytes)


def run_files(config: FilesConfig, context: StageContext) -> Mapping[str, float]:
    shards = [Shard(name=f"s{number}", items=(number, config.round, config.shards)) for number in range(config.shards)]
    for record in context.map_shards(FileWriter(bytes=config.bytes), shards, label="files", identity={}):
        context.adopt(record)
    return {}


def run_link(config: FilesConfig, context: StageContext) -> Mapping[str, float]:
    write_file(context.output, context.stage_id, config.bytes)
    return {}


FILES = StageKind(name="files", version=1, config=FilesConfig, run=run_files, output="files@1")
LINK = StageKind(
    name="link",
    version=1,
    config=FilesConfig,
    run=run_link,
    output="files@1",
    inputs={"before": Slot(kind="files@1", required=False)},
)


class BareWriter:
    """The same work as `FileWriter`, without an engine around it."""

    def work(self, folder: str, name: str, num_bytes: int) -> str:
        write_file(Path(folder), name, num_bytes)
        return name


def bare_stage(folder: str, name: str, num_bytes: int, _before: str) -> str:
    write_file(Path(folder), name, num_bytes)
    return name


@dataclass(frozen=True, kw_only=True)
class Bench:
    workspace: Workspace
    folder: Path
    workers: int
    bytes: int

    def engine_map(self, num_shards: int, number: int) -> None:
        config = FilesConfig(shards=num_shards, bytes=self.bytes, round=number)
        self.workspace.run_recipe(self._plan([self._spec("files", FILES, config, ())]))

    def bare_map(self, num_shards: int, number: int) -> None:
        folder = self._empty_folder(number)
        actors = [ray.remote(num_cpus=1)(BareWriter).remote() for _ in range(self.workers)]
        pool = ActorPool(actors)
        names = [f"s{shard}" for shard in range(num_shards)]
        list(pool.map_unordered(lambda actor, name: actor.work.remote(folder, name, self.bytes), names))
        for actor in actors:
            ray.kill(actor)

    def engine_chain(self, num_stages: int, number: int) -> None:
        config = FilesConfig(shards=num_stages, bytes=self.bytes, round=number)
        names = [f"stage{index}" for index in range(num_stages)]
        before = ["", *names]
        self.workspace.run_recipe(
            self._plan([self._spec(name, LINK, config, (last,)) for name, last in zip(names, before, strict=False)])
        )

    def bare_chain(self, num_stages: int, number: int) -> None:
        folder = self._empty_folder(number)
        stage, last = ray.remote(num_cpus=1)(bare_stage), ""
        for index in range(num_stages):
            last = ray.get(stage.remote(folder, f"stage{index}", self.bytes, last))

    def _plan(self, specs: Sequence[StageSpec]) -> Plan:
        return make_plan(Recipe(name="bench", stages=tuple(specs)), PlanView(find=self.workspace.artifacts.find))

    def _spec(self, name: str, kind: StageKind[FilesConfig], config: FilesConfig, before: tuple[str, ...]) -> StageSpec:
        return StageSpec(
            id=name,
            kind=kind,
            config=config,
            inputs={"before": before} if any(before) else {},
            resources=Resources(workers=self.workers),
            retry=RetryPolicy(),
        )

    def _empty_folder(self, number: int) -> str:
        folder = self.folder / f"bare{number}-{time.monotonic_ns()}"
        folder.mkdir(parents=True)
        return str(folder)


def medians_s(measures: Mapping[Place, Callable[[int], None]], repeats: int) -> dict[Place, float]:
    """Median seconds of each; they take turns, after one round that is not counted. Each is told its round."""
    times_s: dict[Place, list[float]] = {place: [] for place in measures}
    for number in range(repeats + 1):
        for place, measure in measures.items():
            began = time.perf_counter()
            measure(number)
            if number:
                times_s[place].append(time.perf_counter() - began)
    return {place: statistics.median(times) for place, times in times_s.items()}


@click.command()
@click.option("--shards", default=200, show_default=True)
@click.option("--stages", default=20, show_default=True)
@click.option("--bytes", "num_bytes", default=10_000, show_default=True, help="Of the file that each of them writes.")
@click.option("--workers", default=2, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(shards: int, stages: int, num_bytes: int, workers: int, repeats: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        cluster = Cluster(LocalRay(cpus=float(workers)))
        with Workspace.open(root=Path(name, "illume"), tracking_url="none", cluster=cluster) as workspace:
            cluster.connect()
            bench = Bench(workspace=workspace, folder=Path(name, "bare"), workers=workers, bytes=num_bytes)
            found = medians_s(
                {
                    (side, what, count): partial(getattr(bench, f"{side}_{what}"), count)  # the four methods of Bench
                    for what, counts in (("map", (FEW, FEW + shards)), ("chain", (FEW, FEW + stages)))
                    for count in counts
                    for side in ("engine", "bare")
                },
                repeats,
            )
        cluster.close()
    click.echo(f"{f'median of {repeats}':36} {'engine':>12} {'bare Ray':>12} {'added':>12}")
    for what, more, each, rest in (("map", shards, "shard", "map, its processes"), ("chain", stages, "stage", "run")):
        each_s, rest_s = {}, {}
        for side in ("engine", "bare"):
            each_s[side] = (found[side, what, FEW + more] - found[side, what, FEW]) / more
            rest_s[side] = found[side, what, FEW] - FEW * each_s[side]
        for name, times_s in ((f"for each {each}", each_s), (f"once for a {rest}", rest_s)):
            engine_ms, bare_ms = times_s["engine"] * 1e3, times_s["bare"] * 1e3
            click.echo(f"{name:36} {engine_ms:9.1f} ms {bare_ms:9.1f} ms {engine_ms - bare_ms:9.1f} ms")


if __name__ == "__main__":
    main()
