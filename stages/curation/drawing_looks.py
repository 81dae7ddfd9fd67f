"""Looks closely at pairs of drawn images on many workers, before curation decides on copies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.images.limits import DecodeLimits
from orchestrator.artifact import JSON
from orchestrator.identity import semantic_json
from orchestrator.shards import Shard, ShardInput, ShardOutcome
from orchestrator.stage import NodeInputs, StageContext
from stages.node_data import open_inputs

if TYPE_CHECKING:
    from data_pipelines.curation.drawing_look import Answer, LookQuestion

MIN_LOOKS_FOR_MAP = 64  # fewer take the driver some seconds
LOOKS_PER_SHARD = 256  # of up to 0.2 s each
ANSWERS = "answers.parquet"


@dataclass(frozen=True, kw_only=True)
class LookWorker:
    """Answers the questions of a shard. They have no items to quarantine: an image that cannot be read decides
    nothing."""

    limits: DecodeLimits
    inputs: NodeInputs

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from data_pipelines.curation.drawing_look import LookQuestion, look_at

        open_inputs(self.inputs)

        def run(shard: ShardInput) -> ShardOutcome:
            listed, folders = shard.work["questions"], shard.work["records"]
            assert isinstance(listed, list), "written by `looks_on_workers`"
            assert isinstance(folders, dict), "written by `looks_on_workers`"
            questions = [LookQuestion(**_with_tuples(question)) for question in listed]
            records = {name: Path(str(folder)) for name, folder in folders.items()}
            answers = look_at(questions, records, self.limits)
            pq.write_table(pa.table({"same": answers}), shard.output / f"{shard.name}.{ANSWERS}")
            return ShardOutcome(rows=len(answers))

        return run


def looks_on_workers(context: StageContext, folders: Mapping[str, Path], limits: DecodeLimits) -> "Answer":
    """Answers questions about images of the shards in `folders`; many of them by a map."""

    def answer(questions: "Sequence[LookQuestion]") -> Sequence[bool]:
        from data_pipelines.curation.drawing_look import look_at

        if len(questions) < MIN_LOOKS_FOR_MAP:
            return look_at(questions, folders, limits)
        # Neighbours show the same images, which are decoded once for all of them.
        order = sorted(range(len(questions)), key=lambda number: (questions[number].shard, questions[number].images))
        parts = [order[start : start + LOOKS_PER_SHARD] for start in range(0, len(order), LOOKS_PER_SHARD)]
        shards = [_shard(number, [questions[at] for at in part], folders) for number, part in enumerate(parts)]
        identity: dict[str, JSON] = {"limits": semantic_json(limits)}
        worker = LookWorker(limits=limits, inputs=context.node_inputs)
        made = context.map_shards(worker, shards, label="look", identity=identity, unit="pieces")
        found: dict[int, bool] = {}
        for record in made:
            found.update(zip(parts[int(record.shard)], _answers(record.file(f"{record.shard}.{ANSWERS}")), strict=True))
        return [found[number] for number in range(len(questions))]

    return answer


def _shard(number: int, questions: "Sequence[LookQuestion]", folders: Mapping[str, Path]) -> Shard:
    """Identified by what is asked about which images, wherever they are."""
    asked = [semantic_json(question) for question in questions]
    shards = {name for question in questions for name in (question.shard, question.other_shard)}
    return Shard(
        name=f"{number:05}",
        items=(),
        identity={"questions": asked},
        work={"questions": asked, "records": {name: str(folders[name]) for name in sorted(shards)}},
    )


def _with_tuples(question: JSON) -> dict[str, Any]:
    assert isinstance(question, dict), "written by `looks_on_workers`"
    return {name: tuple(value) if isinstance(value, list) else value for name, value in question.items()}


def _answers(path: Path) -> list[bool]:
    import pyarrow.parquet as pq

    return [bool(same) for same in pq.read_table(path)["same"].to_pylist()]
