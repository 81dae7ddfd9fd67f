"""The pretended device refuses what CUDA refuses, and takes what CUDA takes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.pretended_device import CPU, DEVICE, PretendedDevice


def on_device(*shape: int) -> torch.Tensor:
    return torch.ones(shape).to(DEVICE)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: on_device(2) + torch.ones(2), "same device"),
        (lambda: torch.ones(2) * on_device(2), "same device"),
        (lambda: torch.rand(2, device=DEVICE, generator=torch.Generator()), "generator"),
        (lambda: on_device(2).normal_(generator=torch.Generator()), "generator"),
        (lambda: torch.randperm(4, device=DEVICE, generator=torch.Generator()), "generator"),
        (lambda: on_device(2).numpy(), "numpy"),
        (lambda: on_device(2).pin_memory(), "pin"),
        (lambda: nn.Linear(2, 2).to(DEVICE)(torch.ones(1, 2)), "same device"),
        (lambda: nn.Linear(2, 2)(on_device(1, 2)), "same device"),
        (lambda: torch.ones(2)[on_device(1).long()], "same device"),
        (lambda: torch.cat([on_device(1), torch.ones(1)]), "same device"),
    ],
)
def test_what_cuda_refuses_is_refused(refused: Callable[[], object], message: str) -> None:
    with PretendedDevice(), pytest.raises((RuntimeError, TypeError), match=message):
        refused()


@pytest.mark.parametrize(
    "taken",
    [
        lambda: on_device(2) * torch.tensor(2.0),  # a scalar of the host
        lambda: on_device(3)[torch.tensor([0, 1])],  # indices of the host
        lambda: torch.zeros(2, device=DEVICE) + on_device(2).new_tensor([1.0, 2.0]),
        lambda: torch.zeros_like(on_device(2)) + torch.empty(2, device="cuda"),
        lambda: torch.rand(2, generator=torch.Generator()).to(DEVICE) + on_device(2),
        lambda: nn.Linear(2, 2).to(DEVICE)(on_device(1, 2)).sum().backward(),
        lambda: torch.ones(2) + on_device(2).cpu(),
        lambda: on_device(2).cpu().numpy(),
        lambda: on_device(2).copy_(torch.ones(2)) + on_device(2),
    ],
)
def test_what_cuda_takes_is_taken(taken: Callable[[], object]) -> None:
    with PretendedDevice():
        taken()


def test_gradients_are_on_the_device_and_waits_are_counted() -> None:
    with PretendedDevice() as device:
        model = nn.Linear(2, 2).to(DEVICE)
        loss = model(on_device(1, 2)).sum()
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        assert all(gradient is not None and gradient.device == DEVICE for gradient in gradients)
        assert loss.device == DEVICE
        assert torch.ones(1).device == CPU
        assert device.waits == []
        assert loss.detach().item() == loss.cpu().tolist()
    assert device.waits == ["aten._local_scalar_dense", "cpu"]
