"""Wrong codes among those that a model reads while it learns the right ones."""

from dataclasses import replace
from random import Random

import numpy as np

from data_pipelines.training_data.packing import PackedSample
from models.mllm.vocabulary import VisionVocabulary


def with_semantic_noise(
    sample: PackedSample, vocabulary: VisionVocabulary, *, share: float, seed: int, epoch: int
) -> PackedSample:
    """The sample with a random `share` of the semantic codes of its answers replaced by random ones; labels stay.

    Codes of an answer are predicted one after the other, and the pixel codes from the semantic ones. A model that only
    ever read right ones trusts its own wrong ones more than the text and the source. Depends on the sample's name, the
    seed and the epoch alone.
    """
    semantic = vocabulary.semantic_range
    is_semantic = (sample.ids >= semantic.start) & (sample.ids < semantic.stop) & (sample.labels == sample.ids)
    random = Random(f"semantic noise\n{seed}\n{epoch}\n{sample.name}")
    ids = sample.ids.copy()
    for position in np.flatnonzero(is_semantic):
        if random.random() < share:
            ids[position] = semantic[int(random.random() * len(semantic))]
    return replace(sample, ids=ids)
