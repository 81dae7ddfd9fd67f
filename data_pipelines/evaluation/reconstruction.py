"""Reconstruction metrics of an image tokenizer: PSNR, SSIM, rFID and code usage, computed in parts.

Each part (a shard) is a table of scores, and sums that add up, so no image is read twice.
Legend: B batch, C channels, Y X pixel rows and columns, K codes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.images.contact_sheet import Cell, Row, contact_sheet
from data_pipelines.tokens.tokenize import ImageArray, decode_in_order, encode_images
from models.dualvitok.geometry import Size
from models.dualvitok.model import Codes, DualViTok
from models.dualvitok.quantizer import code_usage
from models.metrics.frechet_distance import FeatureStatistics, frechet_distance
from models.metrics.image_metrics import SSIM_WINDOW_PX, psnr, ssim, to_levels
from models.metrics.inception import InceptionFeatures

SCORES_FILE, SUMS_FILE, SHEET_FILE = "scores.parquet", "sums.safetensors", "images.png"
IMAGES_SHOWN = 6  # of each part
SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("slot", pa.int32()),
        ("anchor_h", pa.int32()),
        ("anchor_w", pa.int32()),
        ("psnr", pa.float64()),
        ("ssim", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ScoredPart:
    num_images: int
    left_out: tuple[tuple[str, str], ...]  # sample id, reason


def score_part(
    dataset: CuratedDataset,
    shard: str,
    *,
    model: DualViTok,
    inception: InceptionFeatures | None,
    sample_ids: Sequence[str],
    anchors: Collection[Size],
    batch_size: int,
    out: Path,
) -> ScoredPart:
    """Encode and decode the images of some samples of a shard; writes scores, sums and a sheet of images to `out`."""
    scorer = _Scorer(model, inception, batch_size)
    left_out = []
    for decoded in decode_in_order(dataset, shard, sample_ids=sample_ids, anchors=anchors, decode_threads=2):
        if decoded.reason:
            left_out.append((decoded.sample_id, decoded.reason))
        for slot, (anchor, image) in enumerate(zip(decoded.anchors, decoded.images, strict=True)):
            scorer.add((decoded.sample_id, slot), anchor, image)
    scorer.flush()
    rows = sorted(scorer.rows, key=lambda row: (row["sample_id"], row["slot"]))
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), out / SCORES_FILE)
    save_file(scorer.sums(), str(out / SUMS_FILE))
    if scorer.shown:
        _sheet(scorer.shown).save(out / SHEET_FILE)
    return ScoredPart(num_images=len(rows), left_out=tuple(left_out))


def summarize(parts: Sequence[Path]) -> dict[str, float]:
    """Metrics over all parts: means of `psnr` (dB) and `ssim`, overall and by anchor; the used share of each codebook
    and its perplexity; `rfid` if the parts have Inception features.

    An exactly reconstructed image has no finite PSNR and is excluded from that mean.
    """
    tables = [pq.read_table(part / SCORES_FILE) for part in parts]
    scores = pa.concat_tables(tables) if tables else pa.Table.from_pylist([], schema=SCHEMA)
    metrics = {"images": float(len(scores))}
    anchors = [
        f"{h}x{w}" for h, w in zip(*(scores[name].to_pylist() for name in ("anchor_h", "anchor_w")), strict=True)
    ]
    for name in ("psnr", "ssim"):
        values = np.array(scores[name].to_pylist(), dtype=np.float64)
        metrics.update(_means(name, values, anchors))
    sums = [load_file(str(part / SUMS_FILE)) for part in parts]
    for book in ("semantic", "pixel"):
        counts = [found[f"{book}_counts"] for found in sums]
        if counts:
            usage = code_usage(torch.stack(counts).sum(dim=0))
            metrics[f"{book}_codes_used"] = usage.used_share
            metrics[f"{book}_perplexity"] = usage.perplexity
    with_features = [found for found in sums if "original_mean" in found]
    if with_features:
        original, reconstructed = (_merged(with_features, side) for side in ("original", "reconstructed"))
        if original.count > 1:
            metrics["rfid"] = frechet_distance(original, reconstructed)
            metrics["rfid_images"] = float(original.count)
    return metrics


class _Scorer:
    """Collects images by anchor and scores each full batch. Short batches are padded, as in `tokens.tokenize`."""

    def __init__(self, model: DualViTok, inception: InceptionFeatures | None, batch_size: int) -> None:
        self._model, self._inception, self._batch_size = model, inception, batch_size
        self._waiting: dict[Size, list[tuple[tuple[str, int], ImageArray]]] = {}
        self.rows: list[dict[str, Any]] = []
        self.shown: list[tuple[ImageArray, ImageArray]] = []
        config = model.config
        self._counts = {
            "semantic": torch.zeros(config.semantic.codebook_size, dtype=torch.int64),
            "pixel": torch.zeros(config.pixel.codebook_size, dtype=torch.int64),
        }
        self._features: dict[str, FeatureStatistics] = {}

    def add(self, key: tuple[str, int], anchor: Size, image: ImageArray) -> None:
        batch = self._waiting.setdefault(anchor, [])
        batch.append((key, image))
        if len(batch) == self._batch_size:
            self._score(anchor, self._waiting.pop(anchor))

    def flush(self) -> None:
        while self._waiting:
            self._score(*self._waiting.popitem())

    def sums(self) -> dict[str, torch.Tensor]:
        found = {f"{book}_counts": counts for book, counts in self._counts.items()}
        for side, statistics in self._features.items():
            found[f"{side}_count"] = torch.tensor(statistics.count)
            found[f"{side}_mean"] = statistics.mean_D
            found[f"{side}_scatter"] = statistics.scatter_DD
        return found

    def _score(self, anchor: Size, batch: Sequence[tuple[tuple[str, int], ImageArray]]) -> None:
        real = len(batch)
        raw_BYXC = np.stack([image for _, image in batch] + [batch[-1][1]] * (self._batch_size - real))
        codes = encode_images(self._model, raw_BYXC)
        with torch.inference_mode():
            decoded = self._model.decode(codes)
        reconstructed = to_levels(decoded[:real])
        original = torch.from_numpy(raw_BYXC[:real]).permute(0, 3, 1, 2)
        self._count(Codes(semantic_BYX=codes.semantic_BYX[:real], pixel_BYX=codes.pixel_BYX[:real]))
        self._gather("original", original)
        self._gather("reconstructed", reconstructed)
        pairs = reconstructed.double() / 255, original.double() / 255
        ssim_B = ssim(*pairs) if min(anchor) >= SSIM_WINDOW_PX else torch.full((real,), torch.nan)
        for (key, _), psnr_db, similarity in zip(batch, psnr(*pairs).tolist(), ssim_B.tolist(), strict=True):
            row = {"sample_id": key[0], "slot": key[1], "anchor_h": anchor[0], "anchor_w": anchor[1]}
            self.rows.append({**row, "psnr": psnr_db, "ssim": similarity})
        for before, after in zip(raw_BYXC[:real], reconstructed.permute(0, 2, 3, 1).numpy(), strict=True):
            if len(self.shown) < IMAGES_SHOWN:
                self.shown.append((before, after))

    def _count(self, codes: Codes) -> None:
        for book, found_BYX in (("semantic", codes.semantic_BYX), ("pixel", codes.pixel_BYX)):
            counts = self._counts[book]
            counts += found_BYX.flatten().bincount(minlength=len(counts)).cpu()

    def _gather(self, side: str, levels_BCYX: torch.Tensor) -> None:
        if self._inception is None:
            return
        with torch.inference_mode():
            features = self._inception(levels_BCYX.to(next(self._inception.parameters()).device))
        statistics = FeatureStatistics.of(features)
        self._features[side] = self._features[side].merge(statistics) if side in self._features else statistics


def _means(name: str, values: npt.NDArray[np.float64], anchors: Sequence[str]) -> Mapping[str, float]:
    found = {}
    for label in ("", *sorted(set(anchors))):
        chosen = values if not label else values[np.array(anchors) == label]
        chosen = chosen[np.isfinite(chosen)]
        if len(chosen):
            found[f"{name}/{label}" if label else name] = float(chosen.mean())
    return found


def _merged(sums: Sequence[Mapping[str, torch.Tensor]], side: str) -> FeatureStatistics:
    parts = [
        FeatureStatistics(
            count=int(found[f"{side}_count"]), mean_D=found[f"{side}_mean"], scatter_DD=found[f"{side}_scatter"]
        )
        for found in sums
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    return merged


def _sheet(pairs: Sequence[tuple[ImageArray, ImageArray]]) -> Image.Image:
    rows = [
        Row(label=label, cells=[Cell(image=Image.fromarray(pair[side])) for pair in pairs])
        for side, label in enumerate(("original", "reconstructed"))
    ]
    return contact_sheet(rows, text_lines=0)
