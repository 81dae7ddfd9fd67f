"""Contrastive image-text pre-training of a Qwen2-VL vision tower, for use without a published semantic encoder.

The text encoder is discarded afterwards; `weights.save_vision(model.vision, folder)` writes the tower for a tokenizer.
Letters: B batch, T text tokens or cells, D width, C channels, Y X pixel rows and columns.
Source: CLIP (arXiv 2103.00020).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dualvitok.config import ImageTextConfig
from models.dualvitok.vision_tower import VisionTower

_INITIAL_SCALE = 1 / 0.07  # of the logits, as in CLIP
_MAX_SCALE = 100.0


@dataclass(frozen=True, kw_only=True)
class ContrastiveOutputs:
    """Loss of one batch, and how often the nearest text of an image (or image of a text) is its own."""

    loss: Tensor
    image_accuracy: Tensor
    text_accuracy: Tensor


class TextEncoder(nn.Module):
    """Token ids to one vector per text: a small pre-norm transformer and the mean over its tokens."""

    def __init__(self, config: ImageTextConfig) -> None:
        super().__init__()
        self.padding_id = config.padding_id
        self.max_tokens = config.max_tokens
        self.tokens = nn.Embedding(config.vocabulary_size, config.text_width)
        self.positions = nn.Parameter(torch.randn(config.max_tokens, config.text_width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            config.text_width,
            config.text_heads,
            dim_feedforward=4 * config.text_width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(layer, config.text_depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.text_width)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """[B, D]; padded positions are ignored. Every text needs at least one token."""
        ids_BT = ids_BT[:, : self.max_tokens]
        padded_BT = ids_BT == self.padding_id
        x_BTD = self.tokens(ids_BT) + self.positions[: ids_BT.shape[1]]
        x_BTD = self.norm(self.blocks(x_BTD, src_key_padding_mask=padded_BT))
        weight_BT1 = (~padded_BT).to(x_BTD.dtype)[..., None]
        return (x_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)


class ImageTextModel(nn.Module):
    """Both encoders, their projections into one space, and the learned scale of the logits."""

    def __init__(self, config: ImageTextConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision)
        self.text = TextEncoder(config)
        self.image_projection = nn.Linear(config.vision.output_width, config.embedding_width, bias=False)
        self.text_projection = nn.Linear(config.text_width, config.embedding_width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_INITIAL_SCALE)))

    def embed_images(self, images_BCYX: Tensor) -> Tensor:
        """Unit vectors [B, D] of images in [-1, 1]: the mean over the tower's cells, normalised and projected."""
        cells_BTD = self.vision(images_BCYX)
        mean_BD = F.layer_norm(cells_BTD, cells_BTD.shape[-1:]).mean(1)
        return F.normalize(self.image_projection(mean_BD).float(), dim=-1)

    def embed_texts(self, ids_BT: Tensor) -> Tensor:
        """Unit vectors [B, D] of token ids padded with `padding_id`."""
        return F.normalize(self.text_projection(self.text(ids_BT)).float(), dim=-1)

    def forward(self, images_BCYX: Tensor, ids_BT: Tensor) -> ContrastiveOutputs:
        scale = self.log_scale.exp().clamp(max=_MAX_SCALE)
        same_BB = (ids_BT[:, None] == ids_BT[None]).all(-1)
        return contrastive_loss(self.embed_images(images_BCYX), self.embed_texts(ids_BT), scale, same_BB)


def contrastive_loss(image_BD: Tensor, text_BD: Tensor, scale: Tensor, same_BB: Tensor) -> ContrastiveOutputs:
    """Symmetric InfoNCE over the batch, image i with text i.

    `same_BB` is true where text j equals text i: the accuracies count such a hit as correct. The loss ignores it, as
    equal texts have equal logits and only raise its minimum.
    """
    logits_BB = scale * image_BD @ text_BD.T
    rows = torch.arange(len(logits_BB), device=logits_BB.device)
    return ContrastiveOutputs(
        loss=(F.cross_entropy(logits_BB, rows) + F.cross_entropy(logits_BB.T, rows)) / 2,
        image_accuracy=same_BB[rows, logits_BB.argmax(1)].float().mean(),
        text_accuracy=same_BB[logits_BB.argmax(0), rows].float().mean(),
    )
