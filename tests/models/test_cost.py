import torch
from torch import nn

from models.cost import Cost, attention, convolution, linear, norm, total
from tests.models.measured import measured_flops, measured_parameters


def test_layers_cost_what_torch_counts() -> None:
    def call(module: nn.Module, batch: int) -> object:
        return module(torch.empty(batch, 6, 10, 10, device="meta"))

    for module, cost in (
        (lambda: nn.Conv2d(6, 8, 3, padding=1), convolution(100, 6, 8)),
        (lambda: nn.Conv2d(6, 8, 1), linear(100, 6, 8)),
        (lambda: nn.GroupNorm(2, 6), norm(6)),
    ):
        assert measured_parameters(module) == cost.parameters
        assert measured_flops(module, call) == cost.flops


def test_attention_counts_two_products() -> None:
    class Attention(nn.Module):
        def forward(self, keys: int) -> torch.Tensor:
            queries, others = torch.empty(1, 2, 7, 8, device="meta"), torch.empty(1, 2, keys, 8, device="meta")
            return torch.nn.functional.scaled_dot_product_attention(queries, others, others)

    assert measured_flops(Attention, lambda module, _: module(7)) == attention(7, 16).flops
    assert measured_flops(Attention, lambda module, _: module(5)) == attention(7, 16, keys=5).flops


def test_costs_add_up() -> None:
    one = Cost(parameters=2, flops=3.0, saved_bytes=5.0)
    assert total(one, one.times(2)) == Cost(parameters=6, flops=9.0, saved_bytes=15.0)
    assert total() == Cost()
    assert one.keeping(0) == Cost(parameters=2, flops=3.0)
