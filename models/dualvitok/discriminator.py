"""PatchGAN: a small convolutional discriminator of overlapping patches (published layout of weights).

Source: pix2pix (arXiv 1611.07004); ILLUME+ released configuration.
"""

from torch import Tensor, nn

from models.dualvitok.config import DiscriminatorConfig

_LEAK = 0.2
_MAX_WIDTH_FACTOR = 8  # channels stop doubling at 8 times the first


class PatchGan(nn.Module):
    """Images [B, 3, Y, X] to logits [B, 1, y, x], high for real patches; batch norm by batch statistics in training."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [nn.Conv2d(3, config.channels, 4, stride=2, padding=1), nn.LeakyReLU(_LEAK)]
        before = config.channels
        for index in range(1, config.layers + 1):
            width = config.channels * min(2**index, _MAX_WIDTH_FACTOR)
            stride = 2 if index < config.layers else 1
            layers += [
                nn.Conv2d(before, width, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(_LEAK),
            ]
            before = width
        layers.append(nn.Conv2d(before, 1, 4, padding=1))
        self.main = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, images_BCYX: Tensor) -> Tensor:
        logits: Tensor = self.main(images_BCYX)
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
