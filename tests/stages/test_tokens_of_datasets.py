"""Datasets and their codes: which shards are tokenized, and whose codes a training reads."""

import hashlib
from pathlib import Path

import pytest
import torch

from data_pipelines.tokens.token_shards import TokenizerIdentity, TokenShard
from models.dualvitok import weights as tokenizer_weights
from models.dualvitok.model import DualViTok
from orchestrator.artifact import Artifact, FileEntry, Fingerprint, Manifest
from orchestrator.errors import PrecheckError
from stages.programs.decoder import DecoderProgram
from stages.programs.decoder_config import DecoderTask, TrainDecoderConfig
from stages.programs.token_pairing import pair_tokens
from stages.tokenize_images import shards_to_tokenize
from stages.training.config import LoopConfig
from tests.data_pipelines.conftest import Wanted, write_dataset, write_tokens
from tests.data_pipelines.tiny_run import DECODER, TOKENIZER

SAMPLES = [
    Wanted(task="generation", turns=(f"Generate {{resolution_tag}} {n}\n", "<image>"), anchors=((32, 32),))
    for n in range(4)
]


def artifact(folder: Path) -> Artifact:
    """A folder as a committed artifact, with what a stage reads of its manifest."""
    files = tuple(
        FileEntry(
            path=path.relative_to(folder).as_posix(),
            bytes=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    fingerprint = Fingerprint(hashlib.sha256(str(folder).encode()).hexdigest())
    manifest = Manifest(
        kind="dataset@1", stage_kind="curate", fingerprint=fingerprint, payload={}, files=files, stats={}
    )
    return Artifact(path=folder, manifest=manifest, manifest_sha256="")


def dataset(folder: Path, name: str, samples: list[Wanted] = SAMPLES) -> tuple[Path, list[str]]:
    """A dataset whose shards are named after it, and its samples' ids."""
    return folder / "dataset", write_dataset(folder / "dataset", samples, name=name, per_shard=2)


def test_every_shard_with_pictures_to_draw_is_tokenized(tmp_path: Path) -> None:
    told = [*SAMPLES, Wanted(task="text", turns=("Say", "so"))]
    first, ids = dataset(tmp_path / "1", "one", told)
    second, _ = dataset(tmp_path / "2", "two")
    shards = shards_to_tokenize([artifact(first), artifact(second)], ("generation", "editing"))
    assert [shard.name for shard in shards] == ["one-00000", "one-00001", "two-00000", "two-00001"]
    assert shards[0].items == tuple(ids[:2])


def test_what_is_tokenized_depends_on_the_pictures_and_not_on_their_place(tmp_path: Path) -> None:
    first, _ = dataset(tmp_path / "1", "one")
    again, _ = dataset(tmp_path / "2", "one")
    found = [shards_to_tokenize([artifact(folder)], ("generation",)) for folder in (first, again)]
    assert [(shard.items, shard.identity) for shard in found[0]] == [
        (shard.items, shard.identity) for shard in found[1]
    ]


def test_two_shards_of_one_name_are_not_tokenized_into_one_file(tmp_path: Path) -> None:
    both = [artifact(dataset(tmp_path / place, "one")[0]) for place in ("1", "2")]
    with pytest.raises(PrecheckError, match=r"both have a shard 'one-00000'; tokenize each in a stage of its own, or"):
        shards_to_tokenize(both, ("generation",))


def test_datasets_are_paired_with_their_tokens_in_order(tmp_path: Path) -> None:
    (one, _), (two, _) = dataset(tmp_path / "1", "same"), dataset(tmp_path / "2", "same")
    pairs = pair_tokens("train_mllm", [one, two], [tmp_path / "t1", tmp_path / "t2"])
    assert [(pair.dataset, pair.tokens) for pair in pairs] == [(one, tmp_path / "t1"), (two, tmp_path / "t2")]


def test_tokens_made_of_several_datasets_serve_them_all(tmp_path: Path) -> None:
    (one, _), (two, _) = dataset(tmp_path / "1", "one"), dataset(tmp_path / "2", "two")
    pairs = pair_tokens("train_mllm", [one, two], [tmp_path / "tokens"])
    assert [(pair.dataset, pair.tokens) for pair in pairs] == [(one, tmp_path / "tokens"), (two, tmp_path / "tokens")]


def test_datasets_that_share_tokens_and_a_shard_name_are_refused(tmp_path: Path) -> None:
    (one, _), (two, _) = dataset(tmp_path / "1", "same"), dataset(tmp_path / "2", "same")
    with pytest.raises(PrecheckError, match=r"train_decoder: the datasets .* both have a shard 'same-00000' and share"):
        pair_tokens("train_decoder", [one, two], [tmp_path / "tokens"])


@pytest.mark.parametrize("num_tokens", [0, 2])
def test_a_number_of_tokens_that_fits_nothing_is_refused(tmp_path: Path, num_tokens: int) -> None:
    folders = [dataset(tmp_path / str(number), f"d{number}")[0] for number in range(3)]
    tokens = [tmp_path / f"t{number}" for number in range(num_tokens)]
    with pytest.raises(PrecheckError, match=rf"train_mllm: 3 datasets but {num_tokens} token artifacts; give one for"):
        pair_tokens("train_mllm", folders, tokens)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer_weights.save(DualViTok(TOKENIZER), folder)
    return folder


def decoder_task(tmp_path: Path, tokenizer: Path, without: int) -> tuple[DecoderTask, list[str]]:
    folder, ids = dataset(tmp_path / "data", "one")
    identity = TokenizerIdentity(sha256="a" * 64, semantic_codes=16, pixel_codes=32, pixel_factor=8)
    write_tokens(tmp_path / "tokens", folder, SAMPLES, ids, tokenizer=identity, without=ids[4 - without :], per_shard=2)
    config = TrainDecoderConfig(
        model=DECODER, batch=2, learning_rate=1e-3, loop=LoopConfig(steps=2, micros_per_step=1, seed=1)
    )
    task = DecoderTask(
        config=config, datasets=(folder,), tokens=(tmp_path / "tokens",), tokenizer=tokenizer, start=None
    )
    return task, ids


def test_the_decoder_learns_each_picture_with_its_own_codes(tmp_path: Path, tokenizer: Path) -> None:
    task, ids = decoder_task(tmp_path, tokenizer, without=0)
    micro = DecoderProgram(task, torch.device("cpu")).micro(0, 0)
    images_BCYX, codes = micro.data
    assert images_BCYX.shape == (2, 3, 64, 64)
    known = {
        tuple(pixel.flatten().tolist())
        for number in range(2)
        for shard in [TokenShard(tmp_path / "tokens" / "tokens" / f"one-0000{number}.parquet")]
        for sample_id in ids[2 * number : 2 * number + 2]
        for _, pixel in [shard.codes(sample_id, 0)]
    }
    assert {tuple(pixel_YX.flatten().tolist()) for pixel_YX in codes.pixel_BYX} <= known


def test_the_decoder_passes_over_pictures_that_could_not_be_tokenized(tmp_path: Path, tokenizer: Path) -> None:
    task, _ = decoder_task(tmp_path, tokenizer, without=1)
    program = DecoderProgram(task, torch.device("cpu"))
    for step in range(6):
        assert program.micro(step, 0).weight == 2
