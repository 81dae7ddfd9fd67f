"""Images of a curated shard become codes: decode, crop to the anchor, encode in batches of one anchor, write in order.

The codes of an image do not depend on its neighbours: every call of the tokenizer has a full batch, short ones are
filled up, so the arithmetic is the same whichever samples are asked for.
Legend: B batch, C channels, Y X pixel rows and columns.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.samples import SampleError
from data_pipelines.images.model_input import image_anchor, open_upright
from data_pipelines.tokens.token_shards import ImageCodes, TokenizerIdentity, TokensError, TokenShardWriter
from models.dualvitok.geometry import Size, fit_to_anchor
from models.dualvitok.model import Codes, DualViTok

Picture = npt.NDArray[np.uint8]  # YXC
DECODED_AHEAD = 4  # samples per decoding thread


@dataclass(frozen=True, kw_only=True)
class TokenizedShard:
    """What became of the samples of one shard. Deterministic."""

    num_images: int
    num_samples: int
    images_per_anchor: dict[str, int]  # "HxW" -> images
    quarantined: tuple[tuple[str, str], ...]  # sample id, reason


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A sample's pictures at the sizes of their anchors."""

    sample_id: str
    anchors: tuple[Size, ...] = ()
    pictures: tuple[Picture, ...] = ()
    reason: str = ""  # why it could not be decoded


def tokenizer_identity(model: DualViTok, weights: Path) -> TokenizerIdentity:
    """What token shards say about the tokenizer whose `model.safetensors` is `weights`."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return TokenizerIdentity(
        sha256=digest,
        semantic_codes=model.config.semantic.codebook_size,
        pixel_codes=model.config.pixel.codebook_size,
        pixel_factor=model.pixel_factor,
    )


def samples_to_tokenize(dataset: CuratedDataset, shard: str, tasks: Collection[str] | None) -> list[str]:
    """Ids of the kept samples of some tasks (None: all), in order."""
    return [row.tobytes().hex() for row in dataset.rows(shard, tasks=tasks).ids]


def tokenize_shard(
    dataset: CuratedDataset,
    shard: str,
    *,
    model: DualViTok,
    tokenizer: TokenizerIdentity,
    sample_ids: Sequence[str],
    anchors: Collection[Size],
    out: Path,
    batch_size: int = 16,
    decode_threads: int = 2,
) -> TokenizedShard:
    """Write the token shard of some samples of a dataset shard, in their order there, to the file `out`.

    A sample of which one image cannot be decoded or fits none of `anchors` is left out whole and reported.

    Raises: DatasetError if a sample is not in the shard, TokensError for an anchor that the tokenizer cannot encode.
    """
    for anchor in anchors:
        tokenizer.grids(anchor, f"shard {shard}")
    encoder = _BatchedEncoder(model, batch_size)
    quarantined: list[tuple[str, str]] = []
    done: list[Decoded] = []
    for decoded in decoded_in_order(
        dataset, shard, sample_ids=sample_ids, anchors=anchors, decode_threads=max(1, decode_threads)
    ):
        if decoded.reason:
            quarantined.append((decoded.sample_id, decoded.reason))
            continue
        for slot, (anchor, picture) in enumerate(zip(decoded.anchors, decoded.pictures, strict=True)):
            encoder.add((decoded.sample_id, slot), anchor, picture)
        done.append(Decoded(sample_id=decoded.sample_id, anchors=decoded.anchors))
    encoder.flush()
    with TokenShardWriter(out, tokenizer) as writer:
        for sample in done:
            for slot, anchor in enumerate(sample.anchors):
                semantic, pixel = encoder.codes[(sample.sample_id, slot)]
                writer.write(
                    ImageCodes(
                        sample_id=sample.sample_id, slot=slot, anchor=anchor, semantic_YX=semantic, pixel_YX=pixel
                    )
                )
    counts = Counter(f"{anchor[0]}x{anchor[1]}" for sample in done for anchor in sample.anchors)
    return TokenizedShard(
        num_images=counts.total(),
        num_samples=len(done),
        images_per_anchor=dict(sorted(counts.items())),
        quarantined=tuple(quarantined),
    )


def encode_pictures(model: DualViTok, pictures_BYXC: npt.NDArray[np.uint8]) -> Codes:
    """Codes of equal-sized RGB pictures, on the model's device; a GPU may still be at work on them."""
    parameter = next(model.parameters())
    raw = torch.from_numpy(np.ascontiguousarray(pictures_BYXC))
    if parameter.device.type == "cuda":
        raw = raw.pin_memory()  # only from there is a copy made while the GPU computes
    raw = raw.to(parameter.device, non_blocking=True)
    images_BCYX = (raw.permute(0, 3, 1, 2).float() / 127.5 - 1.0).to(parameter.dtype)
    return model.encode(images_BCYX)


@dataclass
class _BatchedEncoder:
    """Collects pictures by anchor and encodes each full batch.

    Codes are fetched one batch late, so that a GPU has its next batch before it is done with the last.
    """

    model: DualViTok
    batch_size: int
    codes: dict[tuple[str, int], tuple[npt.NDArray[np.int64], ...]] = field(default_factory=dict)
    waiting: dict[Size, list[tuple[tuple[str, int], Picture]]] = field(default_factory=dict)
    under_way: tuple[list[tuple[str, int]], Codes] | None = None

    def add(self, key: tuple[str, int], anchor: Size, picture: Picture) -> None:
        batch = self.waiting.setdefault(anchor, [])
        batch.append((key, picture))
        if len(batch) == self.batch_size:
            self._encode(self.waiting.pop(anchor))

    def flush(self) -> None:
        while self.waiting:
            self._encode(self.waiting.popitem()[1])
        self._fetch()

    def _encode(self, batch: list[tuple[tuple[str, int], Picture]]) -> None:
        filled = [picture for _, picture in batch] + [batch[-1][1]] * (self.batch_size - len(batch))
        codes = encode_pictures(self.model, np.stack(filled))
        self._fetch()
        self.under_way = [key for key, _ in batch], codes

    def _fetch(self) -> None:
        if self.under_way is None:
            return
        keys, codes = self.under_way
        levels = codes.semantic_BYX.cpu().numpy(), codes.pixel_BYX.cpu().numpy()
        for row, key in enumerate(keys):
            self.codes[key] = tuple(level[row] for level in levels)
        self.under_way = None


def decoded_in_order(
    dataset: CuratedDataset,
    shard: str,
    *,
    sample_ids: Sequence[str],
    anchors: Collection[Size],
    decode_threads: int,
) -> Iterator[Decoded]:
    """The samples with their pictures, a few of them decoded ahead of use."""
    rows = dataset.rows(shard)
    wanted = set(sample_ids)
    known = [row.tobytes().hex() for row in rows.ids]
    if absent := sorted(wanted - set(known)):
        raise DatasetError(
            f"shard {shard}: {len(absent)} of {len(wanted)} samples are not in its ledger, the first is {absent[0]}; "
            "plan again, the data set has changed"
        )
    ahead: deque[Future[Decoded]] = deque()
    with ThreadPoolExecutor(max_workers=decode_threads) as pool:
        for sample_id, offset, span in zip(known, rows.offsets.tolist(), rows.spans.tolist(), strict=True):
            if sample_id in wanted:
                ahead.append(pool.submit(_decode, dataset, shard, sample_id, offset, span, frozenset(anchors)))
            if len(ahead) > DECODED_AHEAD * decode_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _decode(
    dataset: CuratedDataset, shard: str, sample_id: str, offset: int, span: int, anchors: frozenset[Size]
) -> Decoded:
    try:
        stored = dataset.read(shard, offset, span)
        if stored.sample.sample_id != sample_id:
            raise SampleError(
                f"the ledger says {sample_id}, but the shard holds {stored.sample.sample_id} at its place"
            )
        found_anchors, pictures = [], []
        for slot, image in enumerate(stored.sample.images):
            anchor = image_anchor(stored.sample, slot)
            if anchor not in anchors:
                raise SampleError(
                    f"image {slot}: anchor {anchor[0]}x{anchor[1]} (HxW) is none of the {len(anchors)} known"
                )
            picture = open_upright(stored.image_bytes(slot), image, f"image {slot}")
            pictures.append(np.asarray(fit_to_anchor(picture, anchor)))
            found_anchors.append(anchor)
    except (SampleError, TokensError) as error:
        return Decoded(sample_id=sample_id, reason=str(error))
    return Decoded(sample_id=sample_id, anchors=tuple(found_anchors), pictures=tuple(pictures))
