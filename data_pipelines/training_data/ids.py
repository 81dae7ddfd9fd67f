"""Arrays of ids [N, 32], the bytes of SHA-256 digests: wanted ones, the first of each kind, and those held out."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines.training_data.permutation import Integers, is_chosen, sample_words

IDS_AT_ONCE = 1 << 17  # ids compared at once: as many as fit into CPU caches
PREFIX_BITS = 26  # of an id; of 100 million ids, 1.5% pass a table of 1 million wanted prefixes (64 MB)


def find_ids(ids: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8]) -> tuple[Integers, Integers]:
    """Pairs (index in `wanted` [N, 32], index in `ids` [M, 32]) for every occurrence of a wanted id, as two arrays.

    One pass over the ids, of which a table of prefixes discards nearly all: scanning 100 million takes
    about as long as writing a sorted copy of them would, and nothing has to be stored.
    """
    words = sample_words(wanted)
    order = np.argsort(words, kind="stable")
    words = words[order]
    shift = np.uint64(64 - PREFIX_BITS)
    is_wanted = np.zeros(1 << PREFIX_BITS, dtype=np.bool_)
    is_wanted[words >> shift] = True
    found = [np.zeros((2, 0), dtype=np.int64)]
    for start in range(0, len(ids), IDS_AT_ONCE):
        block = ids[start : start + IDS_AT_ONCE]
        id_words = sample_words(block)
        near = np.flatnonzero(is_wanted[id_words >> shift])
        first = np.searchsorted(words, id_words[near])
        # More than one iteration only if ids share their first 64 bits.
        while (more := np.flatnonzero(words.take(first, mode="clip") == id_words[near])).size:
            more = more[first[more] < len(words)]
            near, first = near[more], first[more]
            which = order[first]
            is_same = (block[near] == wanted[which]).all(axis=1)
            found.append(np.stack([which[is_same], near[is_same] + start]))
            first = first + 1
    which, indices = np.concatenate(found, axis=1)
    return which, indices


def first_of_equal(ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Whether each row of bytes [N, 32] is the first of its kind. Takes 25 bytes of memory a row."""
    words = sample_words(ids)
    order = np.argsort(words, kind="stable")
    pairs = np.flatnonzero(words[order[1:]] == words[order[:-1]])
    if not all((ids[order[at + 1]] == ids[order[at]]).all() for at in _chunks(pairs)):  # digests that begin alike
        order = np.lexsort([sample_words(ids[:, 8 * number :]) for number in (3, 2, 1, 0)])  # stable, as the other
        pairs = np.concatenate(
            [np.zeros(0, np.int64), *(at[_is_equal(ids, order, at)] for at in _chunks(np.arange(len(ids) - 1)))]
        )
    is_first = np.ones(len(ids), dtype=np.bool_)
    is_first[order[pairs + 1]] = False
    return is_first


def _is_equal(ids: npt.NDArray[np.uint8], order: Integers, at: Integers) -> npt.NDArray[np.bool_]:
    return np.asarray((ids[order[at + 1]] == ids[order[at]]).all(axis=1))


def _chunks(values: Integers) -> Iterator[Integers]:
    for start in range(0, len(values), IDS_AT_ONCE):
        yield values[start : start + IDS_AT_ONCE]


def is_held_out(ids: npt.NDArray[np.uint8], images: Sequence[str], share: float) -> npt.NDArray[np.bool_]:
    """For each sample, by its id [N, 32] and the SHA-256 of its first image ("": none), whether it is held out.

    Depends on the image (of a text, on the sample) and the share only, so that no image is on both sides, in no part
    and no stage; a larger share holds out those of a smaller one too.
    """
    groups = ids.copy()
    with_image = [number for number, image in enumerate(images) if image]
    groups[with_image] = ids_of([images[number] for number in with_image])
    return images_held_out(groups, share)


def images_held_out(images: npt.NDArray[np.uint8], share: float) -> npt.NDArray[np.bool_]:
    """For each image [N, 32] whether what begins with it is held out."""
    return is_chosen(sample_words(images), share=share, seed=0, epochs=0, purpose="held out")


def ids_of(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Digests given as hexadecimal text, as bytes [N, 32]."""
    return np.frombuffer(bytes.fromhex("".join(texts)), dtype=np.uint8).reshape(-1, 32)
