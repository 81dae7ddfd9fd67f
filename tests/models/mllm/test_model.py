"""Packing, features, token tables: equal to computing documents one by one."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dualvitok.geometry import pixel_grid, semantic_grid
from models.mllm.batch import PackedBatch
from models.mllm.config import LossWeights
from models.mllm.model import UnifiedMllm
from models.mllm.vision import ImageFeatures, VisionBranch, read_images
from models.mllm.vocabulary import IGNORED_LABEL, PIXEL_FEATURE, SEMANTIC_FEATURE
from tests.models.mllm.conftest import make_config


def random_image(size: tuple[int, int], seed: int) -> Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _document(
    model: UnifiedMllm, length: int, seed: int, size: tuple[int, int] | None = None
) -> tuple[list[int], list[int]]:
    """Ids and labels of random text and image tokens, with an input image in the middle."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.vocabulary.total, (length,), generator=generator).tolist()
    block: list[int] = []
    if size is not None:
        block = model.vocabulary.feature_block_ids(semantic_grid(*size), pixel_grid(*size, factor=4)).tolist()
    labels = [IGNORED_LABEL] * (length // 2 + len(block)) + ids[length // 2 :]
    return ids[: length // 2] + block + ids[length // 2 :], labels


def _rows(rows: Sequence[Sequence[tuple[list[int], list[int]]]], images: Sequence[Tensor] = ()) -> PackedBatch:
    """Documents packed into rows, padded on the right."""
    length = max(sum(len(ids) for ids, _ in row) for row in rows)
    arrays = {name: torch.zeros(len(rows), length, dtype=torch.long) for name in ("ids", "positions", "segments")}
    labels = torch.full((len(rows), length), IGNORED_LABEL)
    for index, row in enumerate(rows):
        at = 0
        for number, (ids, document_labels) in enumerate(row, start=1):
            span = slice(at, at + len(ids))
            arrays["ids"][index, span] = torch.tensor(ids)
            arrays["positions"][index, span] = torch.arange(len(ids))
            arrays["segments"][index, span] = number
            labels[index, span] = torch.tensor(document_labels)
            at += len(ids)
    return PackedBatch(
        ids_BT=arrays["ids"],
        labels_BT=labels,
        positions_BT=arrays["positions"],
        segments_BT=arrays["segments"],
        images=images,
    )


def _gradients(model: UnifiedMllm, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_packing_equals_documents_one_by_one_in_value_and_gradient(model: UnifiedMllm) -> None:
    sizes = [None, (16, 32), (32, 16), None, (16, 32)]
    documents = [
        _document(model, length, seed, size)
        for seed, (length, size) in enumerate(zip([7, 9, 12, 20, 5], sizes, strict=True))
    ]
    images = [random_image(size, 10 + index) for index, size in enumerate(sizes) if size is not None]
    packed = model(_rows([[documents[0], documents[1]], [documents[2], documents[3], documents[4]]], images))
    packed_gradients = _gradients(model, packed.loss_sum)

    waiting = list(images)
    singles = [
        model(_rows([[document]], [waiting.pop(0)] if size else []))
        for document, size in zip(documents, sizes, strict=True)
    ]
    loss = torch.stack([single.loss_sum for single in singles]).sum()
    gradients = _gradients(model, loss)
    # fp32: other shapes, other order of sums
    torch.testing.assert_close(packed.loss_sum, loss, rtol=1e-5, atol=1e-4)
    assert packed.trained_tokens == sum(single.trained_tokens for single in singles)
    assert packed_gradients.keys() == gradients.keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-3, atol=1e-5 * max(1.0, scale), msg=name)


def test_the_loss_equals_full_scores_of_plain_transformers(model: UnifiedMllm) -> None:
    ids, labels = _document(model, 24, seed=1)
    batch = _rows([[(ids, labels)]])
    hidden = model.language(inputs_embeds=torch.cat(model.embedding.parts)[batch.ids_BT]).last_hidden_state
    scores = hidden @ torch.cat(model.output_table.parts).T
    expected = F.cross_entropy(scores[0, :-1], batch.labels_BT[0, 1:], reduction="sum")
    output = model(batch)
    torch.testing.assert_close(output.loss_sum, expected, rtol=1e-5, atol=1e-4)
    assert output.trained_tokens == 12


def test_metrics_and_weights_separate_the_kinds_of_tokens() -> None:
    config = make_config()
    torch.manual_seed(0)
    model = UnifiedMllm(config)
    vocabulary = model.vocabulary
    ids = [3, 4, *vocabulary.block_ids([[1, 2]], [[3], [4]]).tolist(), 5]
    output = model(_rows([[(ids, ids)]]))
    counts = {name: output.metrics[f"{name}_tokens"].item() for name in ("text", "semantic", "pixel")}
    assert counts == {"text": len(ids) - 1 - 4, "semantic": 2, "pixel": 2}
    sums = {name: output.metrics[f"{name}_loss_sum"] for name in counts}
    torch.testing.assert_close(sum(sums.values()), output.loss_sum.detach())

    model.config = replace(config, loss_weights=LossWeights(text=0.5, semantic=2.0, pixel=0.0))
    batch = _rows([[(ids, ids)]])
    weighted = model(batch)
    assert weighted.trained_tokens == model.trained_weight(batch.labels_BT, batch.segments_BT)
    torch.testing.assert_close(weighted.loss_sum.detach(), 0.5 * sums["text"] + 2 * sums["semantic"])
    assert weighted.trained_tokens == 0.5 * counts["text"] + 2 * counts["semantic"]


def test_features_computed_elsewhere_give_the_same_loss_as_images(model: UnifiedMllm) -> None:
    document, image = _document(model, 10, 0, (16, 32)), random_image((16, 32), 1)
    by_images = _rows([[document]], [image])
    assert model.vision is not None
    by_features = replace(by_images, images=(), features=read_images(model.vision, [image]))
    torch.testing.assert_close(model(by_features).loss_sum, model(by_images).loss_sum)


def test_a_batch_without_images_never_runs_the_vision_branch(
    model: UnifiedMllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the vision branch ran")

    monkeypatch.setattr(VisionBranch, "features", fail)
    model(_rows([[_document(model, 10, 0)]])).loss_sum.backward()
    projector = [parameter.grad for parameter in model.projector.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in projector)


def test_features_must_fill_the_placeholders_exactly(model: UnifiedMllm) -> None:
    batch = _rows([[_document(model, 10, 0, (16, 32))]], [random_image((32, 32), 1)])
    with pytest.raises(ValueError, match=r"32 positions for pixel features, but its 1 images have 64"):
        model(batch)
    without = UnifiedMllm(model.config)
    with pytest.raises(ValueError, match="no vision branch"):
        without(batch)


def test_scores_of_a_range_are_a_slice_of_all_scores(model: UnifiedMllm) -> None:
    hidden = torch.randn(3, 32)
    everything = hidden @ torch.cat(model.output_table.parts).T
    for ids in (range(0, 115), range(0, 20), range(40, 60), range(60, 90), range(50, 115)):
        torch.testing.assert_close(model.output_table.scores(hidden, ids), everything[:, ids.start : ids.stop])


def test_recomputed_activations_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    plain = UnifiedMllm(make_config())
    recomputing = UnifiedMllm(replace(make_config(), checkpoint_activations=True))
    recomputing.load_state_dict(plain.state_dict())
    batch = _rows([[_document(plain, 10, 0)]])
    expected = _gradients(plain, plain(batch).loss_sum)
    for name, gradient in _gradients(recomputing, recomputing(batch).loss_sum).items():
        torch.testing.assert_close(gradient, expected[name])


def test_a_table_smaller_than_the_vocabulary_is_refused() -> None:
    config = make_config()
    with pytest.raises(ValueError, match="110 rows for 111 ids"):
        UnifiedMllm(replace(config, tokens=replace(config.tokens, rows=110)))


def test_placeholders_are_replaced_in_order_of_appearance(model: UnifiedMllm) -> None:
    widths = 12, 4
    features = [ImageFeatures(torch.randn(1, widths[0]), torch.randn(2, widths[1])) for _ in range(2)]
    ids = torch.tensor(
        [[5, SEMANTIC_FEATURE, PIXEL_FEATURE, PIXEL_FEATURE], [SEMANTIC_FEATURE, 6, PIXEL_FEATURE, PIXEL_FEATURE]]
    )
    vectors = model.embed(ids, features)
    for row, image, place in ((0, 0, 1), (1, 1, 0)):
        semantic, pixel = model.projector(*features[image])
        torch.testing.assert_close(vectors[row, place], semantic[0])
        torch.testing.assert_close(vectors[row, 2:], pixel)
    torch.testing.assert_close(vectors[0, 0], model.embedding.text[5])
