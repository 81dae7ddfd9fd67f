"""Duplicate candidates, packed into arrays: about 300 bytes for a sample of one image.

Legend: N candidates, M images of all candidates in order.
"""

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipelines.duplicates.near_hashes import Hashes

MINIATURE_BYTES = 192  # 8 x 8 RGB
EXACT_REASONS = ("same_record", "same_bytes", "same_pixels")

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A sample that passed all other checks. Candidates are ordered: of several copies the first is kept."""

    sample_id: str
    partition: str  # only samples of one partition are compared
    file_digests: tuple[str, ...]  # of its images
    pixel_digests: tuple[str, ...]  # see `images.facts.ImageFacts`
    phashes: tuple[int, ...]
    miniatures: tuple[bytes, ...]  # 8 x 8 RGB
    mirrored_phashes: tuple[int, ...] = ()  # of the same images with left and right swapped; (): do not search for them
    held_out: bool = False  # of the validation split: kept, whichever sample repeats it


class Candidates:
    """Candidates in order. Of digests and partitions only hashes are kept."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self._ids, ends = bytearray(), array("q", [0])
        salts, starts, phashes, mirrored = array("Q"), array("q", [0]), array("Q"), array("Q")
        miniatures, held_out, with_mirrored, num_images = bytearray(), bytearray(), bytearray(), array("i")
        keys = {reason: bytearray() for reason in EXACT_REASONS}
        for candidate in candidates:
            self._ids += candidate.sample_id.encode("utf-8", "surrogatepass")
            ends.append(len(self._ids))
            salts.append(text_hash(f"{candidate.partition}/{len(candidate.file_digests)}"))
            phashes.extend(candidate.phashes)
            mirrored.extend(candidate.mirrored_phashes or candidate.phashes)
            miniatures += b"".join(candidate.miniatures)
            starts.append(len(phashes))
            num_images.append(len(candidate.file_digests))
            held_out.append(candidate.held_out)
            with_mirrored.append(bool(candidate.mirrored_phashes))
            for reason, parts in _exact_parts(candidate).items():
                keys[reason] += _key(parts)
        self._id_ends: Integers = np.frombuffer(ends, np.int64)
        self.salts: Hashes = np.frombuffer(salts, np.uint64)  # [N], only samples of one salt are compared
        self.num_images = np.frombuffer(num_images, np.int32)  # [N]
        self.starts: Integers = np.frombuffer(starts, np.int64)  # [N + 1], of each sample's images
        self.phashes: Hashes = np.frombuffer(phashes, np.uint64)  # [M]
        self.mirrored_phashes: Hashes = np.frombuffer(mirrored, np.uint64)  # [M], as `phashes` where not searched for
        self.miniatures = np.frombuffer(miniatures, np.uint8).reshape(-1, 8, 8, 3)  # [M]
        self.held_out = np.frombuffer(held_out, np.bool_)  # [N]
        self.with_mirrored = np.frombuffer(with_mirrored, np.bool_)  # [N]: mirror images are searched for
        self._keys = {reason: np.frombuffer(packed, np.uint64).reshape(-1, 2) for reason, packed in keys.items()}

    def __len__(self) -> int:
        return len(self.salts)

    def sample_id(self, index: int) -> str:
        return self._ids[self._id_ends[index] : self._id_ends[index + 1]].decode("utf-8", "surrogatepass")

    def has_images(self) -> npt.NDArray[np.bool_]:
        """Whether each candidate has an image [N]."""
        return np.diff(self.starts) > 0

    def exact_copies(self, reason: str, chosen: npt.NDArray[np.bool_]) -> tuple[Integers, Integers]:
        """Among the `chosen` [N], the indices of the samples that repeat an earlier one, and of the first one each."""
        keys_N2 = self._keys[reason]
        indices = np.flatnonzero(chosen & keys_N2.any(axis=1))
        order = indices[np.lexsort((keys_N2[indices, 0], keys_N2[indices, 1]))]  # stable: equal ones stay in order
        is_first = np.ones(len(order), dtype=np.bool_)
        is_first[1:] = (keys_N2[order[1:]] != keys_N2[order[:-1]]).any(axis=1)
        firsts = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
        return order[~is_first], firsts[~is_first]


def text_hash(text: str) -> int:
    """A 64-bit salt. Xor-ed to hashes, it separates those of different partitions and keeps distances within one."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _exact_parts(candidate: Candidate) -> dict[str, tuple[str, ...]]:
    """By reason of `EXACT_REASONS`, the texts that are equal in copies; () if the candidate has none."""
    files = (candidate.partition, *candidate.file_digests) if candidate.file_digests else ()
    pixels = (candidate.partition, *candidate.pixel_digests) if candidate.pixel_digests else ()
    return dict(zip(EXACT_REASONS, ((candidate.sample_id,), files, pixels), strict=True))


def _key(parts: tuple[str, ...]) -> bytes:
    """128 bits that are equal for equal parts, 0 for none."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest() if parts else bytes(16)
