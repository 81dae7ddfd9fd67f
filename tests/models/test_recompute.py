"""Recomputed layers have the same outputs and gradients, and keep less."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.recompute import recompute


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, values: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        return values + scale * torch.sin(self.inner(torch.nn.functional.silu(values)))


class Products(TorchDispatchMode):
    """Counts forward matrix products with a bias: one in each layer."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten.addmm.default
        return function(*args, **(kwargs or {}))


def run(layers: nn.ModuleList) -> tuple[list[torch.Tensor], int, int]:
    """Gradients, elements kept for the backward pass, products of both passes."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    values = torch.linspace(-1, 1, 4 * 8).view(4, 8).requires_grad_()
    with Products() as products:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = values
            for layer in layers:
                hidden = layer(hidden, scale=0.5)
        hidden.square().sum().backward()
    found = [values.grad, *(parameter.grad for parameter in layers.parameters())]
    return [gradient for gradient in found if gradient is not None], sum(kept.values()), products.count


def make() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(Layer() for _ in range(3))


@pytest.mark.parametrize("selective", [False, True])
def test_the_gradients_are_the_same(selective: bool) -> None:
    plain, layers = make(), make()
    names = [name for name, _ in layers.named_parameters()]
    recompute(layers, selective=selective)
    assert [name for name, _ in layers.named_parameters()] == names
    expected, kept, products = run(plain)
    found, kept_now, products_now = run(layers)
    for gradient, same in zip(found, expected, strict=True):
        assert torch.equal(gradient, same)
    assert kept_now < kept
    assert (products, products_now) == (3, 3 if selective else 6)  # products are what selective recomputation keeps


def test_nothing_is_recomputed_where_there_is_no_training() -> None:
    layers = make()
    recompute(layers)
    layers.eval()
    assert run(layers)[2] == 3
