"""What the driver of a stage reads of inputs in a remote store, and what its workers read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.datasets import files as dataset_files
from data_pipelines.datasets.reader import CuratedDataset, tar_name
from data_pipelines.datasets.samples import SampleError
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.image_sources import open_images
from data_pipelines.ingest.shards import ingest_shard, plan_ingest
from data_pipelines.shapes.world import generate_world
from models.dualvitok import weights
from models.dualvitok.model import DualViTok
from orchestrator.artifact import JSON, Artifact
from orchestrator.backends.objects import Digest
from orchestrator.errors import CorruptArtifactError
from orchestrator.shards import Shard, ShardRecord, ShardWorker
from orchestrator.stage import Resources, RetryPolicy, StageKind
from orchestrator.store.copies.node_files import NodeFiles
from orchestrator.testing import FolderContext, FolderInputs, folder_artifact, run_stage
from stages.curate import CURATE
from stages.node_data import KEPT_SHARE, files_not_kept, is_shard, open_inputs
from stages.programs.image_data import indexed_batches, make_index
from stages.programs.tokenizer_config import TOKENIZER_IMAGES
from stages.score_tokenizer import SCORE_TOKENIZER, ScoreTokenizerConfig
from stages.tokenize_images import TOKENIZE_IMAGES, TokenizeImagesConfig
from stages.train_tokenizer import TRAIN_TOKENIZER
from tests.data_pipelines.conftest import Wanted, wanted_samples, write_dataset
from tests.data_pipelines.tiny_run import CURATION, TOKENIZER, WORLD
from tests.orchestrator.conftest import MemoryStore


@dataclass
class MeteredStore(MemoryStore):
    """Counts what the driver and the workers read, who share one node."""

    reader: str = "driver"
    downloads: Counter[tuple[str, str]] = field(default_factory=Counter)  # by reader and path in the artifact
    parts: Counter[tuple[str, str]] = field(default_factory=Counter)  # bytes of reads of a part

    def download(self, key: str, path: Path) -> Digest | None:
        self.downloads[self.reader, key.partition("/data/")[2]] += 1
        return super().download(key, path)

    def get_range(self, key: str, start: int, size: int) -> bytes | None:
        self.parts[self.reader, key.partition("/data/")[2]] += size
        return super().get_range(key, start, size)

    def read_by(self, reader: str) -> set[str]:
        return {path for who, path in self.downloads if who == reader}


@dataclass(kw_only=True)
class RemoteContext(FolderContext):
    """A context whose inputs are in a remote store."""

    store: MeteredStore
    streamed: tuple[NodeFiles, ...]

    @property
    def node_inputs(self) -> FolderInputs:
        return FolderInputs(streamed=self.streamed)

    def map_shards(
        self,
        worker: ShardWorker,
        shards: Sequence[Shard],
        *,
        label: str,
        identity: Mapping[str, JSON],
        unit: str = "items",
    ) -> list[ShardRecord]:
        self.store.reader = "worker"
        try:
            return super().map_shards(worker, shards, label=label, identity=identity, unit=unit)
        finally:
            self.store.reader = "driver"


def remote_context(kind: StageKind[Any], folder: Path, inputs: Mapping[str, Path]) -> RemoteContext:
    """Of each input, only the files that are fetched at once are on this machine."""
    store, cache, found, streamed = MeteredStore(), folder / "cache", dict[str, list[Artifact]](), list[NodeFiles]()
    for slot, source in inputs.items():
        artifact, data_key = folder_artifact(source, kind.inputs[slot].kind), f"{slot}/data"
        is_streamed = kind.inputs[slot].streamed or (lambda _path: False)
        for entry in artifact.manifest.files:
            data = (source / entry.path).read_bytes()
            store.objects[f"{data_key}/{entry.path}"] = data
            if not is_streamed(entry.path):
                (cache / data_key / entry.path).parent.mkdir(parents=True, exist_ok=True)
                (cache / data_key / entry.path).write_bytes(data)
        files = {entry.path: entry for entry in artifact.manifest.files if is_streamed(entry.path)}
        streamed += [NodeFiles(store, cache, data_key, files)] if files else []
        path = cache / data_key
        found[slot] = [Artifact(path=path, manifest=artifact.manifest, manifest_sha256=artifact.manifest_sha256)]
    return RemoteContext(
        kind=kind,
        folder=folder / "context",
        artifacts_by_slot=found,
        resources=Resources(),
        retry=RetryPolicy(),
        tombstones={},
        memory_halvings=0,
        stage_id=kind.name,
        settings=kind.execution(),
        store=store,
        streamed=tuple(streamed),
    )


@pytest.fixture(autouse=True)
def _forget_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_files, "_fetches", {})
    monkeypatch.setattr(dataset_files, "_opens", {})
    monkeypatch.setattr(dataset_files, "_reads", {})


def write_records(folder: Path) -> Path:
    raw, records = folder / "raw", folder / "records"
    generate_world(raw, WORLD)
    config, tars = IngestConfig(source="shapes"), sorted((raw / "images").glob("*.tar"))
    images = open_images(tars, max_bytes=config.max_image_bytes, max_unpacked_bytes=config.max_unpacked_bytes)
    for shard in plan_ingest(config, [raw / "annotations"]):
        ingest_shard(shard, records, config, images=images)
    return records


def test_a_curation_plans_by_footers_and_its_workers_fetch_each_shard_once(tmp_path: Path) -> None:
    records = write_records(tmp_path)
    context = remote_context(CURATE, tmp_path, {"records": records})
    assert run_stage(CURATE, CURATION, context)["keep"] > 0
    store = context.store
    assert store.read_by("driver") == set()
    footers = {path for who, path in store.parts if who == "driver"}
    assert footers == {path.relative_to(records).as_posix() for path in records.glob("records/*.parquet")}
    assert any(path.endswith(".tar") for path in store.read_by("worker"))
    assert set(store.downloads.values()) == {1}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (TOKENIZE_IMAGES, TokenizeImagesConfig(tasks=("generation", "editing"))),
        (SCORE_TOKENIZER, ScoreTokenizerConfig(split="train")),
    ],
    ids=["tokenize_images", "score_tokenizer"],
)
def test_who_reads_images_of_a_dataset_fetches_them_where_they_are_read(
    kind: StageKind[Any], config: Any, tmp_path: Path
) -> None:
    dataset, tokenizer = tmp_path / "dataset", tmp_path / "tokenizer"
    write_dataset(dataset, wanted_samples(12, seed=1), name="one", per_shard=4)
    tokenizer.mkdir()
    weights.save(DualViTok(TOKENIZER), tokenizer)
    context = remote_context(kind, tmp_path, {"datasets": dataset, "tokenizer": tokenizer})
    run_stage(kind, config, context)
    store = context.store
    assert {path.partition("/")[0] for path in store.read_by("driver")} == {"ledger"}
    assert any(path.startswith("shards/") for path in store.read_by("worker"))
    assert set(store.downloads.values()) == {1}


def test_descriptions_of_inputs_are_fetched_at_once_and_their_shards_are_not() -> None:
    assert [path for path in ("dataset.json", "ledger/a.parquet", "shards/a.tar") if not is_shard(path)] == [
        "dataset.json"
    ]


def test_shards_that_a_node_cannot_keep_are_read_sample_by_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs in random order, with room for half of six shards: whole ones would come about 70 times."""
    monkeypatch.setattr(dataset_files, "REQUEST_BYTES", 0)  # these shards are small
    monkeypatch.setattr("data_pipelines.training_data.image_batches.CACHE_BYTES", 0)
    samples = [sample for sample in wanted_samples(96) if sample.task == "generation"]
    write_dataset(tmp_path / "dataset", samples, per_shard=4)
    make_index(tmp_path / "index", [tmp_path / "dataset"], TOKENIZER_IMAGES)
    context = remote_context(TRAIN_TOKENIZER, tmp_path, {"datasets": tmp_path / "dataset"})
    (folder,) = context.streamed
    tars = {name: size for name, size in folder.sizes.items() if name.endswith(".tar")}
    ledgers = sum(folder.sizes.values()) - sum(tars.values())
    inputs = FolderInputs(streamed=(folder,), cache_bytes=int((sum(tars.values()) / 2 + ledgers) / KEPT_SHARE) + 1)
    not_kept = set(files_not_kept(inputs)[folder.place])
    assert len(tars) == 6
    assert len(not_kept) == 3

    open_inputs(inputs, in_random_order=True)
    dataset, epochs = CuratedDataset(folder.place), 3
    batches = indexed_batches([folder.place], tmp_path / "index", TOKENIZER_IMAGES, batch=1, seed=3)
    for number in range(epochs * batches.micro_batches_per_epoch):
        batches.read_ahead(number + 1)
        batches.micro_batch(number)
    store = context.store
    assert {path for _, path in store.downloads if path.endswith(".tar")} == set(tars) - not_kept
    assert set(store.downloads.values()) == {1}
    spans = {tar_name(shard): sum(dataset.rows(shard).spans.tolist()) for shard in dataset.shards}
    read = {path: size for (_, path), size in store.parts.items()}
    assert set(read) == not_kept
    ahead = max(size // 4 for size in spans.values())  # one sample more, for the step after the last
    assert 0 <= sum(read.values()) - epochs * sum(spans[path] for path in not_kept) <= 2 * ahead


def test_inputs_that_fit_are_kept_whole(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset", wanted_samples(12))
    (folder,) = remote_context(TRAIN_TOKENIZER, tmp_path, {"datasets": tmp_path / "dataset"}).streamed
    assert files_not_kept(FolderInputs(streamed=(folder,), cache_bytes=sum(folder.sizes.values()))) == {}
    everything = files_not_kept(FolderInputs(streamed=(folder,), cache_bytes=10))
    assert everything == {folder.place: {name: size for name, size in folder.sizes.items() if name.endswith(".tar")}}


@pytest.mark.parametrize("damage", ["gone", "cut off", "another image"])
def test_a_sample_of_a_damaged_shard_in_a_store_is_named(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_files, "REQUEST_BYTES", 0)
    turns = ("<image>\nWhat?", "x")
    samples = [Wanted(task="understanding", turns=turns, anchors=((64, 64),)) for _ in range(4)]
    ids = write_dataset(tmp_path / "dataset", samples)
    context = remote_context(TRAIN_TOKENIZER, tmp_path, {"datasets": tmp_path / "dataset"})
    (folder,) = context.streamed
    open_inputs(FolderInputs(streamed=(folder,), cache_bytes=10), in_random_order=True)
    dataset = CuratedDataset(folder.place)
    rows = dataset.rows("d-00000")
    offset, span = int(rows.offsets[2]), int(rows.spans[2])
    key = "datasets/data/shards/d-00000.tar"
    expected = {
        "gone": (CorruptArtifactError, rf"{key}: found nothing, expected [\d,]+ bytes"),
        "cut off": (CorruptArtifactError, rf"{key}: found [\d,]+ bytes or fewer, expected"),
        "another image": (SampleError, rf"at byte {offset}: image 0 of sample {ids[2]} has SHA-256 .*is damaged"),
    }
    content = context.store.objects[key]
    at = offset + span - 1024  # in the image, which ends the sample
    changed = content[:at].rstrip(b"\0")
    changes = {
        "cut off": content[: offset + 100],
        "another image": changed[:-1] + bytes([changed[-1] ^ 1]) + content[len(changed) :],
    }
    if damage == "gone":
        del context.store.objects[key]
    else:
        context.store.objects[key] = changes[damage]
    error, message = expected[damage]
    with pytest.raises(error, match=message):
        dataset.read("d-00000", offset, span)
