"""Tokenizes the images of a curated shard: decode, crop to the anchor, encode in batches per anchor, write in order.

The codes of an image do not depend on its neighbours: every call of the tokenizer has a full batch (short ones are
padded), so the arithmetic is the same for any choice of samples.
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

ImageArray = npt.NDArray[np.uint8]  # YXC
DECODED_AHEAD = 4  # samples per decoding thread


@dataclass(frozen=True, kw_only=True)
class TokenizedShard:
    """Counts of the tokenized samples of a shard, and the quarantined ones. Deterministic."""

    num_images: int
    num_samples: int
    images_per_anchor: dict[str, int]  # "HxW" -> images
    quarantined: tuple[tuple[str, str], ...]  # sample id, reason


@dataclass(frozen=True, kw_only=True)
class DecodedSample:
    """A sample's images at the sizes of their anchors."""

    sample_id: str
    anchors: tuple[Size, ...] = ()
    images: tuple[ImageArray, ...] = ()
    reason: str = ""  # why it cannot be decoded


def tokenizer_identity(model: DualViTok, weights: Path) -> TokenizerIdentity:
    """The identity of the tokenizer in token shards; `weights` is its `model.safetensors`."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return TokenizerIdentity(
        sha256=digest,
        semantic_codes=model.config.semantic.codebook_size,
        pixel_codes=model.config.pixel.codebook_size,
        pixel_factor=model.pixel_factor,
    )


def samples_to_tokenize(dataset: CuratedDataset, shard: str, tasks: Collection[str] | None) -> list[str]:
    """Ids of the kept samples of the tasks (None: all), in order."""
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

    A sample is quarantined as a whole if one of its images cannot be decoded or fits none of `anchors`.

    Raises: DatasetError if a sample is not in the shard, TokensError for an anchor that the tokenizer cannot encode.
    """
    for anchor in anchors:
        tokenizer.grids(anchor, f"shard {shard}")
    encoder = _BatchedEncoder(model, batch_size)
    quarantined: list[tuple[str, str]] = []
    done: list[DecodedSample] = []
    for decoded in decode_in_order(
        dataset, shard, sample_ids=sample_ids, anchors=anchors, decode_threads=max(1, decode_threads)
    ):
        if decoded.reason:
            quarantined.append((decoded.sample_id, decoded.reason))
            continue
        for slot, (anchor, image) in enumerate(zip(decoded.anchors, decoded.images, strict=True)):
            encoder.add((decoded.sample_id, slot), anchor, image)
        done.append(DecodedSample(sample_id=decoded.sample_id, anchors=decoded.anchors))
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


def encode_images(model: DualViTok, raw_BYXC: npt.NDArray[np.uint8]) -> Codes:
    """Codes of equal-sized RGB images, on the model's device; a GPU may still be computing them."""
    parameter = next(model.parameters())
    pixels = torch.from_numpy(np.ascontiguousarray(raw_BYXC))
    if parameter.device.type == "cuda":
        pixels = pixels.pin_memory()  # only pinned memory is copied while the GPU computes
    pixels = pixels.to(parameter.device, non_blocking=True)
    images_BCYX = (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0).to(parameter.dtype)
    return model.encode(images_BCYX)


@dataclass
class _BatchedEncoder:
    """Collects images by anchor and encodes each full batch.

    Codes are fetched one batch late, so that a GPU gets its next batch before it finishes the last.
    """

    model: DualViTok
    batch_size: int
    codes: dict[tuple[str, int], tuple[npt.NDArray[np.int64], ...]] = field(default_factory=dict)
    waiting: dict[Size, list[tuple[tuple[str, int], ImageArray]]] = field(default_factory=dict)
    in_flight: tuple[list[tuple[str, int]], Codes] | None = None

    def add(self, key: tuple[str, int], anchor: Size, image: ImageArray) -> None:
        batch = self.waiting.setdefault(anchor, [])
        batch.append((key, image))
        if len(batch) == self.batch_size:
            self._encode(self.waiting.pop(anchor))

    def flush(self) -> None:
        while self.waiting:
            self._encode(self.waiting.popitem()[1])
        self._fetch()

    def _encode(self, batch: list[tuple[tuple[str, int], ImageArray]]) -> None:
        filled = [image for _, image in batch] + [batch[-1][1]] * (self.batch_size - len(batch))
        codes = encode_images(self.model, np.stack(filled))
        self._fetch()
        self.in_flight = [key for key, _ in batch], codes

    def _fetch(self) -> None:
        if self.in_flight is None:
            return
        keys, codes = self.in_flight
        levels = codes.semantic_BYX.cpu().numpy(), codes.pixel_BYX.cpu().numpy()
        for row, key in enumerate(keys):
            self.codes[key] = tuple(level[row] for level in levels)
        self.in_flight = None


def decode_in_order(
    dataset: CuratedDataset,
    shard: str,
    *,
    sample_ids: Sequence[str],
    anchors: Collection[Size],
    decode_threads: int,
) -> Iterator[DecodedSample]:
    """The samples with their images, in the order of the shard; a few are decoded ahead of use."""
    rows = dataset.rows(shard)
    wanted = set(sample_ids)
    known = [row.tobytes().hex() for row in rows.ids]
    if absent := sorted(wanted - set(known)):
        raise DatasetError(
            f"shard {shard}: {len(absent)} of {len(wanted)} samples are not in its ledger, the first is {absent[0]}; "
            "plan again, the dataset has changed"
        )
    ahead: deque[Future[DecodedSample]] = deque()
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
) -> DecodedSample:
    try:
        stored = dataset.read(shard, offset, span)
        if stored.sample.sample_id != sample_id:
            raise SampleError(
                f"the ledger says {sample_id}, but the shard holds {stored.sample.sample_id} at its place"
            )
        found_anchors, images = [], []
        for slot, entry in enumerate(stored.sample.images):
            anchor = image_anchor(stored.sample, slot)
            if anchor not in anchors:
                raise SampleError(
                    f"image {slot}: anchor {anchor[0]}x{anchor[1]} (HxW) is none of the {len(anchors)} known"
                )
            image = open_upright(stored.image_bytes(slot), entry, f"image {slot}")
            images.append(np.asarray(fit_to_anchor(image, anchor)))
            found_anchors.append(anchor)
    except (SampleError, TokensError) as error:
        return DecodedSample(sample_id=sample_id, reason=str(error))
    return DecodedSample(sample_id=sample_id, anchors=tuple(found_anchors), images=tuple(images))
