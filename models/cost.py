"""Arithmetic of what networks cost: parameters, FLOPs of a forward pass, and bytes kept for the backward pass.

FLOPs count a multiplication and an addition as two, and only products of matrices and convolutions, as torch's
`FlopCounterMode` does. Bytes are those of training in bfloat16 by autocast on fp32 weights; they were fitted to what
autograd saves in the real modules and are held to it by a test.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cost:
    parameters: int = 0
    flops: float = 0.0  # of one forward pass
    saved_bytes: float = 0.0  # kept for the backward pass

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            parameters=self.parameters + other.parameters,
            flops=self.flops + other.flops,
            saved_bytes=self.saved_bytes + other.saved_bytes,
        )

    def times(self, count: int) -> "Cost":
        """That many modules of the same kind, one after another."""
        return Cost(parameters=self.parameters * count, flops=self.flops * count, saved_bytes=self.saved_bytes * count)

    def keeping(self, saved_bytes: float) -> "Cost":
        return Cost(parameters=self.parameters, flops=self.flops, saved_bytes=saved_bytes)


def total(*costs: Cost) -> Cost:
    return sum(costs, Cost())


def linear(positions: float, inputs: int, outputs: int, *, bias: bool = True) -> Cost:
    """A linear layer on that many positions, or a 1x1 convolution."""
    return Cost(parameters=inputs * outputs + outputs * bias, flops=2 * positions * inputs * outputs)


def convolution(pixels: float, inputs: int, outputs: int, *, side: int = 3) -> Cost:
    """A convolution of `side` x `side` with bias that gives that many pixels."""
    return Cost(parameters=inputs * outputs * side**2 + outputs, flops=2 * pixels * inputs * outputs * side**2)


def norm(width: int) -> Cost:
    """Scale and shift of a group or layer norm."""
    return Cost(parameters=2 * width)


def attention(positions: float, width: int, *, keys: float | None = None) -> Cost:
    """The two products of attention between all positions and all keys, without its layers."""
    return Cost(flops=4 * positions * (positions if keys is None else keys) * width)
