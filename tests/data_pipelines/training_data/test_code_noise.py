"""A stated share of the semantic codes that a model reads is random; what it learns, and all else, is as before."""

from collections.abc import Callable

import numpy as np

from data_pipelines.training_data.code_noise import with_semantic_noise
from data_pipelines.training_data.index import Rendering
from data_pipelines.training_data.loader import TrainingData
from data_pipelines.training_data.packing import PackedSample
from models.mllm.vocabulary import VisionVocabulary
from tests.data_pipelines.training_data.loader_configs import config_of

VOCABULARY = VisionVocabulary(first_id=100, semantic_codes=5_000, pixel_codes=10, resolutions=(32,))
SEMANTIC = VOCABULARY.semantic_range


def sample_of(labels: list[int]) -> PackedSample:
    ids = np.arange(SEMANTIC.start - 4, SEMANTIC.start + len(labels) - 4)
    return PackedSample(ids=ids, labels=np.array(labels), images=(), name="s")


def test_a_share_of_the_semantic_codes_of_answers_is_random() -> None:
    ids = list(range(SEMANTIC.start - 4, SEMANTIC.start + 2_000))
    asked = [-100] * 504 + ids[504:]  # 500 of the codes are part of the question
    sample = sample_of(asked)
    noisy = with_semantic_noise(sample, VOCABULARY, share=0.3, seed=1, epoch=0)
    changed = np.flatnonzero(noisy.ids != sample.ids)
    assert changed.min() >= 504
    assert 0.25 < len(changed) / 1_500 < 0.35
    assert set(noisy.ids[changed]) <= set(SEMANTIC)
    assert len(set(noisy.ids[changed])) > 0.8 * len(changed)
    assert (noisy.labels == sample.labels).all()


def test_it_depends_on_sample_seed_and_epoch_alone() -> None:
    sample = sample_of(list(range(SEMANTIC.start - 4, SEMANTIC.start + 500)))
    found = {
        (seed, epoch): with_semantic_noise(sample, VOCABULARY, share=0.5, seed=seed, epoch=epoch).ids.tobytes()
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert len(set(found.values())) == 4
    assert found[1, 0] == with_semantic_noise(sample, VOCABULARY, share=0.5, seed=1, epoch=0).ids.tobytes()


def test_rows_read_noise_and_learn_right_codes(open_data: Callable[..., TrainingData], rendering: Rendering) -> None:
    clean, noisy = (open_data(config_of(semantic_noise=share, condition_dropout=0.0)) for share in (0.0, 1.0))
    assert noisy.order.digest == clean.order.digest
    semantic = rendering.vocabulary.semantic_range
    for row in range(4):
        left, right = clean.row(row), noisy.row(row)
        is_code = np.isin(left.ids, semantic)
        assert (left.labels == right.labels).all()
        assert (left.ids[~is_code] == right.ids[~is_code]).all()
        assert (left.ids[is_code] != right.ids[is_code]).mean() > 0.5
        assert (noisy.row(row).ids == right.ids).all()
