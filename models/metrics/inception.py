"""Inception v3 for the Fréchet inception distance: features of images, with the weights that all papers use.

The graph of 2015-12-05 with its peculiarities: TensorFlow 1's bilinear resize, means that exclude padding, and a
maximum where the paper has a mean (in the last block). torch-fidelity has the same network, but it installs a package
called `tests` and needs a torchvision that loads beside this torch; its features agree to 1e-5 with the same weights.
Source: Szegedy et al., arXiv 1512.00567; names of weights as in the conversion that torch-fidelity and pytorch-fid use.
Letters: B batch, C channels, Y X rows and columns.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dualvitok.weights import read_tensors
from models.strict_weights import WeightsError, load_strictly

FEATURES = 2048
_SIDE_PX = 299

Size = tuple[int, int]
Step = tuple[str, int, Size]  # name, channels, kernel; steps in a tuple run in parallel
Branch = Sequence[Step | tuple[Step, ...]]
# "stride": the pooling and the last convolution of every branch halve the resolution
Pool = Literal["mean", "max", "stride"]

_ONE, _THREE, _FIVE = (1, 1), (3, 3), (5, 5)
_WIDE, _TALL = (1, 7), (7, 1)


class _Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: Size, *, stride: int = 1, pad: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x_BCYX)))


class _Mixed(nn.Module):
    """Branches over the same input, their outputs concatenated along the channels; the pooling branch is last."""

    def __init__(self, inputs: int, branches: Sequence[Branch], pool: Pool, pool_channels: int = 0) -> None:
        super().__init__()
        self._branches, self._pool = branches, pool
        for branch in branches:
            before = inputs
            for number, step in enumerate(branch):
                halves = pool == "stride" and number == len(branch) - 1
                parallel = self._parallel(step)
                for name, channels, kernel in parallel:
                    layer = _Convolution(before, channels, kernel, stride=2 if halves else 1, pad=not halves)
                    self.add_module(name, layer)
                before = sum(channels for _, channels, _ in parallel)
        if pool_channels:
            self.branch_pool = _Convolution(inputs, pool_channels, _ONE)

    @staticmethod
    def _parallel(step: Step | tuple[Step, ...]) -> tuple[Step, ...]:
        return (step,) if isinstance(step[0], str) else step

    def forward(self, x_BCYX: Tensor) -> Tensor:
        found = []
        for branch in self._branches:
            hidden = x_BCYX
            for step in branch:
                hidden = torch.cat([self.get_submodule(name)(hidden) for name, _, _ in self._parallel(step)], dim=1)
            found.append(hidden)
        if self._pool == "stride":
            pooled = F.max_pool2d(x_BCYX, 3, stride=2)
        elif self._pool == "max":
            pooled = self.branch_pool(F.max_pool2d(x_BCYX, 3, stride=1, padding=1))
        else:
            pooled = self.branch_pool(F.avg_pool2d(x_BCYX, 3, stride=1, padding=1, count_include_pad=False))
        return torch.cat([*found, pooled], dim=1)


def _mixed_5(inputs: int, pool_channels: int) -> _Mixed:
    double: Branch = [
        (f"branch3x3dbl_{number}", width, kernel)
        for number, width, kernel in ((1, 64, _ONE), (2, 96, _THREE), (3, 96, _THREE))
    ]
    branches: list[Branch] = [
        [("branch1x1", 64, _ONE)],
        [("branch5x5_1", 48, _ONE), ("branch5x5_2", 64, _FIVE)],
        double,
    ]
    return _Mixed(inputs, branches, "mean", pool_channels)


def _mixed_6a() -> _Mixed:
    branches: list[Branch] = [
        [("branch3x3", 384, _THREE)],
        [("branch3x3dbl_1", 64, _ONE), ("branch3x3dbl_2", 96, _THREE), ("branch3x3dbl_3", 96, _THREE)],
    ]
    return _Mixed(288, branches, "stride")


def _mixed_6(width: int) -> _Mixed:
    branches: list[Branch] = [
        [("branch1x1", 192, _ONE)],
        [("branch7x7_1", width, _ONE), ("branch7x7_2", width, _WIDE), ("branch7x7_3", 192, _TALL)],
        [
            ("branch7x7dbl_1", width, _ONE),
            ("branch7x7dbl_2", width, _TALL),
            ("branch7x7dbl_3", width, _WIDE),
            ("branch7x7dbl_4", width, _TALL),
            ("branch7x7dbl_5", 192, _WIDE),
        ],
    ]
    return _Mixed(768, branches, "mean", 192)


def _mixed_7a() -> _Mixed:
    branches: list[Branch] = [
        [("branch3x3_1", 192, _ONE), ("branch3x3_2", 320, _THREE)],
        [
            ("branch7x7x3_1", 192, _ONE),
            ("branch7x7x3_2", 192, _WIDE),
            ("branch7x7x3_3", 192, _TALL),
            ("branch7x7x3_4", 192, _THREE),
        ],
    ]
    return _Mixed(768, branches, "stride")


def _mixed_7(inputs: int, pool: Pool) -> _Mixed:
    def crossed(name: str) -> tuple[Step, ...]:
        return (f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1))

    branches: list[Branch] = [
        [("branch1x1", 320, _ONE)],
        [("branch3x3_1", 384, _ONE), crossed("branch3x3_2")],
        [("branch3x3dbl_1", 448, _ONE), ("branch3x3dbl_2", 384, _THREE), crossed("branch3x3dbl_3")],
    ]
    return _Mixed(inputs, branches, pool, 192)


class InceptionFeatures(nn.Module):
    """Images [B, 3, Y, X] uint8 of any size to features [B, 2048] in fp32."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {
            "Conv2d_1a_3x3": _Convolution(3, 32, _THREE, stride=2, pad=False),
            "Conv2d_2a_3x3": _Convolution(32, 32, _THREE, pad=False),
            "Conv2d_2b_3x3": _Convolution(32, 64, _THREE),
            "MaxPool_1": nn.MaxPool2d(3, stride=2),
            "Conv2d_3b_1x1": _Convolution(64, 80, _ONE),
            "Conv2d_4a_3x3": _Convolution(80, 192, _THREE, pad=False),
            "MaxPool_2": nn.MaxPool2d(3, stride=2),
            "Mixed_5b": _mixed_5(192, 32),
            "Mixed_5c": _mixed_5(256, 64),
            "Mixed_5d": _mixed_5(288, 64),
            "Mixed_6a": _mixed_6a(),
            "Mixed_6b": _mixed_6(128),
            "Mixed_6c": _mixed_6(160),
            "Mixed_6d": _mixed_6(160),
            "Mixed_6e": _mixed_6(192),
            "Mixed_7a": _mixed_7a(),
            "Mixed_7b": _mixed_7(1280, "mean"),
            "Mixed_7c": _mixed_7(FEATURES, "max"),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.requires_grad_(False).eval()

    def forward(self, images_BCYX: Tensor) -> Tensor:
        if images_BCYX.dtype != torch.uint8 or images_BCYX.ndim != 4 or images_BCYX.shape[1] != 3:
            raise ValueError(f"images: {images_BCYX.dtype} {tuple(images_BCYX.shape)}; expected uint8 [B, 3, Y, X]")
        x_BCYX = (resize_like_tensorflow(images_BCYX.float(), _SIDE_PX) - 128) / 128
        for layer in self.children():
            x_BCYX = layer(x_BCYX)
        return x_BCYX.mean(dim=(2, 3))


def resize_like_tensorflow(images_BCYX: Tensor, side: int) -> Tensor:
    """Bilinear resize to a square as TensorFlow 1.x has it: pixel i of the result lies at i * size / side."""
    for dim in (2, 3):
        size = images_BCYX.shape[dim]
        place = torch.arange(side, device=images_BCYX.device, dtype=images_BCYX.dtype) * (size / side)
        low = place.long()
        high = (low + 1).clamp(max=size - 1)
        share = (place - low).view(-1, 1) if dim == 2 else place - low
        below, above = images_BCYX.index_select(dim, low), images_BCYX.index_select(dim, high)
        images_BCYX = below + (above - below) * share
    return images_BCYX


def load_inception(path: Path, device: torch.device | str = "cpu") -> InceptionFeatures:
    """The network with the weights of a file of tensors (safetensors or PyTorch), without its classifier.

    Raises: WeightsError.
    """
    if path.suffix == ".safetensors":
        tensors = read_tensors(path)
    elif path.is_file():
        tensors = dict(torch.load(path, map_location="cpu", weights_only=True))
    else:
        raise WeightsError(f"{path}: no such file; expected the Inception weights of 2015-12-05")
    with torch.device("meta"):
        model = InceptionFeatures()
    tensors = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
    for name in model.state_dict():  # older conversions lack these counters, which change nothing
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, torch.tensor(0))
    load_strictly(model, tensors, where=str(path))
    return model.requires_grad_(False).to(device).eval()
