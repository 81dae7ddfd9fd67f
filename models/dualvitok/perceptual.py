"""Perceptual distances between images in [-1, 1]: LPIPS with weights from files, and a cheap one without weights.

Source: LPIPS (arXiv 1801.03924) over VGG16, with the names of weights that the published tokenizer training uses.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dualvitok.weights import read_tensors
from models.strict_weights import WeightsError, load_strictly

# Channels of the 3x3 convolutions before each pooling of VGG16; each stage ends at the features that are compared.
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10


class _Vgg16Stages(nn.Module):
    """Convolutions of VGG16; layers keep their numbers inside the original network."""

    def __init__(self) -> None:
        super().__init__()
        number, before = 0, 3
        for stage, widths in enumerate(_STAGES, start=1):
            layers = nn.Sequential()
            if stage > 1:
                layers.add_module(str(number), nn.MaxPool2d(2))
                number += 1
            for width in widths:
                layers.add_module(str(number), nn.Conv2d(before, width, 3, padding=1))
                layers.add_module(str(number + 1), nn.ReLU())
                number, before = number + 2, width
            self.add_module(f"slice{stage}", layers)

    def forward(self, x_BCYX: Tensor) -> list[Tensor]:
        found = []
        for stage in self.children():
            x_BCYX = stage(x_BCYX)
            found.append(x_BCYX)
        return found


class _ChannelWeights(nn.Module):
    """Non-negative weight per channel, stored as a 1x1 convolution after a dropout that is never used here."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x_BCYX: Tensor) -> Tensor:
        out: Tensor = self.model(x_BCYX)
        return out


class Lpips(nn.Module):
    """LPIPS distance of each pair of images, [B]. Frozen, and without the dropout of the published training."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _Vgg16Stages()
        for index, widths in enumerate(_STAGES):
            self.add_module(f"lin{index}", _ChannelWeights(widths[-1]))
        self.requires_grad_(False)

    def forward(self, first_BCYX: Tensor, second_BCYX: Tensor) -> Tensor:
        shift, scale = (first_BCYX.new_tensor(values).view(1, 3, 1, 1) for values in (_SHIFT, _SCALE))
        pairs = zip(self.net((first_BCYX - shift) / scale), self.net((second_BCYX - shift) / scale), strict=True)
        total = first_BCYX.new_zeros(first_BCYX.shape[0])
        for index, (a, b) in enumerate(pairs):
            difference = (_normalize(a) - _normalize(b)).square()
            total = total + self.get_submodule(f"lin{index}")(difference).mean(dim=(1, 2, 3))
        return total


def _normalize(x_BCYX: Tensor) -> Tensor:
    return x_BCYX / (x_BCYX.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON)


def load_lpips(paths: Sequence[Path]) -> Lpips:
    """LPIPS from its weights, in one file or in several (VGG16 and the channel weights).

    Reads safetensors and PyTorch files (tensors only). VGG16 may have torchvision's names (`features.0.weight`).
    Raises: WeightsError.
    """
    if not paths:
        raise WeightsError(
            "perceptual loss 'lpips': no weights given; name the files of VGG16 and of the LPIPS channel weights, "
            "or choose perceptual: gradients (needs none) or none"
        )
    with torch.device("meta"):
        model = Lpips()
    stage_of = {name.split(".")[2]: name.split(".")[1] for name in model.state_dict() if name.startswith("net.")}
    tensors: dict[str, Tensor] = {}
    for path in paths:
        for name, value in _read_any(path).items():
            number, _, rest = name.removeprefix("features.").partition(".")
            if name.startswith("features.") and number in stage_of:
                tensors[f"net.{stage_of[number]}.{number}.{rest}"] = value
            elif not name.startswith(("classifier.", "scaling_layer.")):
                tensors[name] = value
    load_strictly(model, tensors, where=" + ".join(map(str, paths)))
    return model.requires_grad_(False).eval()


def _read_any(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; expected weights of LPIPS or VGG16") from error
    return dict(found)


def gradient_distance(first_BCYX: Tensor, second_BCYX: Tensor, *, scales: int = 3) -> Tensor:
    """Mean absolute difference of horizontal and vertical gradients, averaged over halved resolutions: a scalar.

    Not published; for tiny models: sharp edges at a hundredth of the cost of LPIPS and without weights.
    """
    difference = first_BCYX - second_BCYX
    total = difference.new_zeros(())
    for scale in range(scales):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        total = total + (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
        total = total + (difference[..., :, 1:] - difference[..., :, :-1]).abs().mean()
    return total / (2 * scales)
