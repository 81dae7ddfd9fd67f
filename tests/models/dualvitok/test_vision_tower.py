import pytest
import torch
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from models.dualvitok.config import VisionConfig
from models.dualvitok.vision_tower import VisionTower, images_to_patches


def test_weights_and_output_equal_those_of_transformers() -> None:
    torch.manual_seed(0)
    config = VisionConfig(depth=2, width=64, num_heads=4, output_width=96)
    theirs = Qwen2VisionTransformerPretrainedModel._from_config(
        Qwen2VLVisionConfig(depth=2, embed_dim=64, num_heads=4, hidden_size=96), attn_implementation="sdpa"
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = VisionTower(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.rand(3, 3, 84, 112) * 2 - 1
    patches, (rows, columns) = images_to_patches(images, config)
    grid_thw = torch.tensor([[1, 2 * rows, 2 * columns]] * 3)
    with torch.no_grad():
        expected = theirs(patches.flatten(0, 1), grid_thw=grid_thw).pooler_output.view(3, rows * columns, 96)
        torch.testing.assert_close(ours(images), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (60, 200)])
def test_an_image_is_not_affected_by_the_others_of_its_batch(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    tower = VisionTower(VisionConfig(depth=1, width=32, num_heads=4, output_width=48)).eval()
    images = torch.rand(4, 3, *size) * 2 - 1
    with torch.no_grad():
        together = tower(images)
        for index in range(4):
            torch.testing.assert_close(together[index : index + 1], tower(images[index : index + 1]), atol=1e-5, rtol=0)
