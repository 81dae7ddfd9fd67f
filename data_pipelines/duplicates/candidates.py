"""The samples among which copies are looked for, packed into arrays: some 300 bytes for each of a picture.

Legend: N candidates, M pictures of all of them one after the other.
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
    """A sample that passed all other checks, in the order in which the first of several copies is kept."""

    sample_id: str
    partition: str  # only samples of one partition are compared
    file_digests: tuple[str, ...]  # of its pictures
    pixel_digests: tuple[str, ...]  # see `image_facts.ImageFacts`
    phashes: tuple[int, ...]
    miniatures: tuple[bytes, ...]  # 8 x 8 RGB
    mirrored_phashes: tuple[int, ...] = ()  # of the same pictures with left and right swapped; (): not looked for
    held_out: bool = False  # of the validation split: kept whatever else repeats it


class Candidates:
    """Candidates in order. Digests and partitions are held as hashes of theirs."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self._ids, ends = bytearray(), array("q", [0])
        salts, starts, phashes, mirrored = array("Q"), array("q", [0]), array("Q"), array("Q")
        looks, held_out, with_mirrored, num_pictures = bytearray(), bytearray(), bytearray(), array("i")
        keys = {reason: bytearray() for reason in EXACT_REASONS}
        for one in candidates:
            self._ids += one.sample_id.encode("utf-8", "surrogatepass")
            ends.append(len(self._ids))
            salts.append(hash_of_text(f"{one.partition}/{len(one.file_digests)}"))
            phashes.extend(one.phashes)
            mirrored.extend(one.mirrored_phashes or one.phashes)
            looks += b"".join(one.miniatures)
            starts.append(len(phashes))
            num_pictures.append(len(one.file_digests))
            held_out.append(one.held_out)
            with_mirrored.append(bool(one.mirrored_phashes))
            for reason, words in _exact(one).items():
                keys[reason] += _key(words)
        self._id_ends: Integers = np.frombuffer(ends, np.int64)
        self.salts: Hashes = np.frombuffer(salts, np.uint64)  # [N], keep those apart that must not be compared
        self.num_pictures = np.frombuffer(num_pictures, np.int32)  # [N]
        self.starts: Integers = np.frombuffer(starts, np.int64)  # [N + 1], of its pictures
        self.phashes: Hashes = np.frombuffer(phashes, np.uint64)  # [M]
        self.mirrored_phashes: Hashes = np.frombuffer(mirrored, np.uint64)  # [M], those of pictures looked for
        self.miniatures = np.frombuffer(looks, np.uint8).reshape(-1, 8, 8, 3)  # [M]
        self.held_out = np.frombuffer(held_out, np.bool_)  # [N]
        self.with_mirrored = np.frombuffer(with_mirrored, np.bool_)  # [N]: mirror images are looked for
        self._keys = {reason: np.frombuffer(found, np.uint64).reshape(-1, 2) for reason, found in keys.items()}

    def __len__(self) -> int:
        return len(self.salts)

    def sample_id(self, index: int) -> str:
        return self._ids[self._id_ends[index] : self._id_ends[index + 1]].decode("utf-8", "surrogatepass")

    def pictured(self) -> npt.NDArray[np.bool_]:
        """Which of them have a picture [N]."""
        return np.diff(self.starts) > 0

    def equals(self, reason: str, chosen: npt.NDArray[np.bool_]) -> tuple[Integers, Integers]:
        """Of those `chosen` [N] the ones that repeat an earlier one, and the first that they repeat."""
        keys_N2 = self._keys[reason]
        places = np.flatnonzero(chosen & keys_N2.any(axis=1))
        order = places[np.lexsort((keys_N2[places, 0], keys_N2[places, 1]))]  # which keeps equal ones in order
        is_first = np.ones(len(order), dtype=np.bool_)
        is_first[1:] = (keys_N2[order[1:]] != keys_N2[order[:-1]]).any(axis=1)
        firsts = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
        return order[~is_first], firsts[~is_first]


def hash_of_text(text: str) -> int:
    """64 bits that keep hashes of different partitions apart when xor-ed to them, and distances within one."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _exact(one: Candidate) -> dict[str, tuple[str, ...]]:
    """What is the same in exact copies, by `EXACT_REASONS`; () if there is nothing."""
    files = (one.partition, *one.file_digests) if one.file_digests else ()
    pixels = (one.partition, *one.pixel_digests) if one.pixel_digests else ()
    return dict(zip(EXACT_REASONS, ((one.sample_id,), files, pixels), strict=True))


def _key(words: tuple[str, ...]) -> bytes:
    """128 bits that are equal for equal words, 0 for none."""
    text = "\0".join(words).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest() if words else bytes(16)
