"""Projects continuous image features to the width of the language model."""

from torch import Tensor, nn


class MixedProjector(nn.Module):
    """Two separate MLPs, Linear - GELU - Linear, one for semantic and one for pixel features.

    Source: ILLUME+ released model, where they are called projector_1 and projector_2.
    """

    def __init__(self, *, semantic_width: int, pixel_width: int, hidden_size: int) -> None:
        super().__init__()
        self.semantic = _mlp(semantic_width, hidden_size)
        self.pixel = _mlp(pixel_width, hidden_size)

    def forward(self, semantic_TD: Tensor, pixel_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Project the features of any number of positions, of all images concatenated."""
        return self.semantic(semantic_TD), self.pixel(pixel_TD)


def _mlp(width: int, hidden_size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size))
