"""What durability costs: the engine next to the same functions called on bare Ray, per stage, per map and per shard.

Run: python tests/benchmarks/bench_engine.py [--shards 1000,10000] [--stages 100] [--bytes 10000] [--repeats 1]
Both sides write the same files with the same number of worker processes of one Ray, in turns; medians are shown.
Everything is measured with few and with many shards or stages: the slope is the cost of one, the rest comes once.
CPU time is that of the whole tree of processes: the driver, the workers, and Ray, whose processes use some while they
wait; the last column but one is that of the driver alone. A chain is measured at least three times. Memory is the
driver's peak so far, so that it is that of a map only where no larger one came before.
Bare Ray neither digests, syncs nor records anything, so what its files are is lost with the driver.
"""

import resource
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
from tests.benchmarks.cpu_time import TreeCpu

FEW = 2
CHAIN_REPEATS = 3  # at least: a stage is short next to what else a run of a second does
WIDTHS = (13, 9, 6, 13, 9, 6)  # of the table's columns
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

    def measures(self, what: str, counts: Sequence[int]) -> dict[Place, Callable[[int], None]]:
        """Of maps or chains with few and with these many more, on either side."""
        sides = {"map": (self.engine_map, self.bare_map), "chain": (self.engine_chain, self.bare_chain)}[what]
        return {
            (side, what, count): partial(measure, count)
            for count in ((FEW, *(FEW + more for more in counts)) if counts else ())
            for side, measure in zip(("engine", "bare"), sides, strict=True)
        }

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


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of one measurement."""

    wall_s: float
    cpu_s: float  # of this process and all below it: workers, and Ray's own processes
    own_cpu_s: float  # of this process
    peak_mib: float = 0.0  # of the memory of this process, since its start

    def each(self, other: "Cost", count: int) -> "Cost":
        """What one of `count` more costs, from a measurement with as many fewer."""
        return Cost(
            wall_s=(self.wall_s - other.wall_s) / count,
            cpu_s=(self.cpu_s - other.cpu_s) / count,
            own_cpu_s=(self.own_cpu_s - other.own_cpu_s) / count,
        )


def measured(measure: Callable[[], None]) -> Cost:
    with TreeCpu() as cpu:
        began = time.perf_counter()
        measure()
        wall_s = time.perf_counter() - began
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(wall_s=wall_s, cpu_s=cpu.seconds, own_cpu_s=cpu.own_seconds, peak_mib=peak_mib)


def medians(measures: Mapping[Place, Callable[[int], None]], repeats: int) -> dict[Place, Cost]:
    """Median cost of each; they take turns, after one small round that is not counted. Each is told its round."""
    for place in [place for place in measures if place[2] == FEW]:
        measures[place](0)
    costs: dict[Place, list[Cost]] = {place: [] for place in measures}
    for number in range(1, repeats + 1):
        for place, measure in measures.items():
            costs[place].append(measured(partial(measure, number)))
    return {
        place: Cost(
            wall_s=statistics.median(cost.wall_s for cost in found),
            cpu_s=statistics.median(cost.cpu_s for cost in found),
            own_cpu_s=statistics.median(cost.own_cpu_s for cost in found),
            peak_mib=found[0].peak_mib,
        )
        for place, found in costs.items()
    }


@click.command()
@click.option("--shards", default="1000,10000", show_default=True, help="Of a map, separated by commas.")
@click.option("--stages", default=100, show_default=True, help="0: none are measured.")
@click.option("--bytes", "num_bytes", default=10_000, show_default=True, help="Of the file that each of them writes.")
@click.option("--workers", default=2, show_default=True)
@click.option("--repeats", default=1, show_default=True)
def main(shards: str, stages: int, num_bytes: int, workers: int, repeats: int) -> None:
    """Print the table."""
    maps = tuple(int(count) for count in shards.split(",") if count)
    chains = (stages,) if stages else ()
    with tempfile.TemporaryDirectory() as name:
        cluster = Cluster(LocalRay(cpus=float(workers)))
        with Workspace.open(root=Path(name, "illume"), tracking_url="none", cluster=cluster) as workspace:
            cluster.connect()
            bench = Bench(workspace=workspace, folder=Path(name, "bare"), workers=workers, bytes=num_bytes)
            found = {
                **medians(bench.measures("map", maps), repeats),
                **medians(bench.measures("chain", chains), max(repeats, CHAIN_REPEATS)),
            }
        cluster.close()
    header = ("CPU: engine", "bare Ray", "times", "wall: engine", "bare Ray", "times")
    cells = [f"{name:>{width}}" for name, width in zip(header, WIDTHS, strict=True)]
    click.echo(f"{f'median of {repeats}':28} {' '.join(cells)}")
    for what, counts, each in (("map", maps, "shard"), ("chain", chains, "stage")):
        for more in counts:
            costs = {
                side: found[side, what, FEW + more].each(found[side, what, FEW], more) for side in ("engine", "bare")
            }
            line = _line(f"a {each} of {more:,}", costs["engine"], costs["bare"])
            own_ms = costs["engine"].own_cpu_s * 1e3
            click.echo(f"{line} driver {own_ms:6.2f} ms {found['engine', what, FEW + more].peak_mib:6.0f} MiB")
        if counts:
            click.echo(_line(f"a {what} of {FEW}, once", found["engine", what, FEW], found["bare", what, FEW]))


def _line(name: str, engine: Cost, bare: Cost) -> str:
    cells = [f"{name:28}"]
    for mine, other in ((engine.cpu_s, bare.cpu_s), (engine.wall_s, bare.wall_s)):
        times = f"{mine / other:.2f}" if other > 0 else "-"  # too few of them to tell from noise
        cells.append(f"{mine * 1e3:10.2f} ms {other * 1e3:6.2f} ms {times:>6}")
    return " ".join(cells)


if __name__ == "__main__":
    main()
