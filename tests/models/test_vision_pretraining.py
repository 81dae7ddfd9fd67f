import pytest
import torch

from models.dualvitok.config import ImageTextConfig, VisionConfig
from models.vision_pretraining import ImageTextModel, contrastive_loss


@pytest.fixture
def model() -> ImageTextModel:
    torch.manual_seed(0)
    vision = VisionConfig(depth=1, width=32, num_heads=4, output_width=32)
    return ImageTextModel(
        ImageTextConfig(vision=vision, vocabulary_size=10, padding_id=0, max_tokens=4, text_width=32, text_depth=1)
    )


def test_padding_does_not_change_a_text(model: ImageTextModel) -> None:
    short = model.embed_texts(torch.tensor([[3, 4]]))
    padded = model.embed_texts(torch.tensor([[3, 4, 0, 0]]))
    torch.testing.assert_close(short, padded, atol=1e-6, rtol=0)


def test_the_order_of_words_matters(model: ImageTextModel) -> None:
    assert not torch.allclose(model.embed_texts(torch.tensor([[3, 4]])), model.embed_texts(torch.tensor([[4, 3]])))


def test_a_text_equal_to_the_right_one_counts_as_right() -> None:
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    scale = torch.tensor(30.0)
    outputs = contrastive_loss(vectors, vectors, scale, same)
    assert outputs.loss.item() == pytest.approx(2 / 3 * torch.log(torch.tensor(2.0)).item(), abs=1e-4)
    assert outputs.image_accuracy.item() == 1.0
    assert contrastive_loss(vectors, vectors, scale, torch.eye(3).bool()).image_accuracy.item() < 1.0


def test_training_pairs_colours_with_their_words(model: ImageTextModel) -> None:
    colours = torch.eye(3)[:, :, None, None].expand(-1, -1, 56, 56) * 2 - 1
    ids = torch.tensor([[1, 2], [1, 3], [1, 4]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(25):
        loss = model(colours, ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    outputs = model(colours, ids)
    assert outputs.loss.item() < 0.1
    assert outputs.text_accuracy.item() == 1.0
