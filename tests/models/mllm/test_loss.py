"""The chunked loss against full scores and torch's own chunks: value, gradients, memory, and its odd cases."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.mllm.loss import chunk_bytes, chunked_cross_entropy, next_tokens


def _example(
    positions: int = 37, width: int = 16, rows: tuple[int, ...] = (50, 65)
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(positions, width, generator=generator, dtype=torch.float64)
    tables = [torch.randn(count, width, generator=generator, dtype=torch.float64) for count in rows]
    targets = torch.randint(0, sum(rows), (positions,), generator=generator)
    weights = torch.rand(positions, generator=generator)
    return hidden.float(), [table.float() for table in tables], targets, weights


def _reference(hidden: Tensor, tables: list[Tensor], targets: Tensor, weights: Tensor) -> Tensor:
    losses = F.cross_entropy(hidden @ torch.cat(tables).T, targets, reduction="none")
    return (losses * weights).sum()


@pytest.mark.parametrize("chunk", [1, 5, 37, 1000])
def test_value_and_gradients_equal_full_scores(chunk: int) -> None:
    hidden, tables, targets, weights = _example()
    leaves = [hidden, *tables]
    for leaf in leaves:
        leaf.requires_grad_()
    expected = _reference(hidden, tables, targets, weights)
    expected_gradients = torch.autograd.grad(expected * 0.7, leaves)
    value, losses = chunked_cross_entropy(hidden, tables, targets, weights, chunk_bytes=chunk * 4 * 115)
    gradients = torch.autograd.grad(value * 0.7, leaves)
    # fp32 sums in another order: a few units in the last place of numbers of size 1 to 300.
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close((losses * weights).sum(), expected, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(
    positions=st.integers(1, 40),
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    chunk=st.integers(1, 50),
    torch_chunks=st.booleans(),
)
def test_torch_finds_the_same_loss_and_gradients(
    positions: int, rows: list[int], chunk: int, torch_chunks: bool
) -> None:
    hidden, tables, targets, _ = _example(positions=positions, rows=tuple(rows))
    leaves = [hidden, *tables]
    for leaf in leaves:
        leaf.requires_grad_()
    options = torch.nn.LinearCrossEntropyOptions() if torch_chunks else None
    expected = F.linear_cross_entropy(hidden, torch.cat(tables), targets, reduction="sum", options=options)
    expected_gradients = torch.autograd.grad(expected, leaves)
    value, losses = chunked_cross_entropy(
        hidden, tables, targets, torch.ones(positions), chunk_bytes=chunk * 4 * sum(rows)
    )
    gradients = torch.autograd.grad(value, leaves)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(losses, F.linear_cross_entropy(hidden, torch.cat(tables), targets, reduction="none"))
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def test_a_frozen_table_gets_no_gradient_and_the_rest_is_unchanged() -> None:
    hidden, (text, vision), targets, weights = _example()
    hidden.requires_grad_()
    vision.requires_grad_()
    value, _ = chunked_cross_entropy(hidden, (text, vision), targets, weights, chunk_bytes=4000)
    value.backward()
    assert text.grad is None
    expected = torch.autograd.grad(_reference(hidden, [text, vision], targets, weights), [hidden, vision])
    torch.testing.assert_close(hidden.grad, expected[0], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(vision.grad, expected[1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("chunk", [5, 37])
def test_without_gradients_the_losses_of_all_chunks_are_computed(chunk: int) -> None:
    hidden, tables, targets, weights = _example()
    value, losses = chunked_cross_entropy(hidden, tables, targets, weights, chunk_bytes=chunk * 4 * 115)
    torch.testing.assert_close(value, _reference(hidden, tables, targets, weights), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(losses, F.cross_entropy(hidden @ torch.cat(tables).T, targets, reduction="none"))


def test_no_trained_position_gives_zero_not_nan() -> None:
    hidden, tables, _, _ = _example()
    for leaf in (hidden, *tables):
        leaf.requires_grad_()
    nothing = torch.zeros(0)
    value, losses = chunked_cross_entropy(hidden[:0], tables, nothing.long(), nothing, chunk_bytes=4000)
    value.backward()
    assert value.item() == 0
    assert losses.shape == (0,)
    assert all(torch.equal(table.grad, torch.zeros_like(table)) for table in tables if table.grad is not None)


def test_under_autocast_scores_are_bf16_and_gradients_keep_the_type_of_the_weights() -> None:
    hidden, tables, targets, weights = _example()
    for leaf in (hidden, *tables):
        leaf.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = chunked_cross_entropy(hidden, tables, targets, weights, chunk_bytes=4000)
    value.backward()
    expected = _reference(hidden, tables, targets, weights)
    torch.testing.assert_close(value, expected, rtol=1e-2, atol=0)  # bf16 keeps 8 bits
    for leaf, gradient in zip((hidden, *tables), torch.autograd.grad(expected, (hidden, *tables)), strict=True):
        assert leaf.grad is not None
        # Of the largest gradient, as sums of rounded products cancel where a gradient is near 0.
        torch.testing.assert_close(leaf.grad, gradient, rtol=0, atol=2e-2 * float(gradient.abs().max()))
    assert [leaf.grad.dtype for leaf in (hidden, *tables) if leaf.grad is not None] == [torch.float32] * 3


@pytest.mark.parametrize("chunk", [1, 5, 37])
@pytest.mark.parametrize("weights_dtype", [torch.float32, torch.bfloat16])
def test_gradients_in_bf16_are_as_near_to_fp32_as_bf16_allows(chunk: int, weights_dtype: torch.dtype) -> None:
    """With fp32 weights under autocast, and with bf16 weights; however many chunks are summed up."""
    hidden, tables, targets, weights = _example()
    leaves = [leaf.to(weights_dtype).requires_grad_() for leaf in (hidden, *tables)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = chunked_cross_entropy(leaves[0], leaves[1:], targets, weights, chunk_bytes=chunk * 4 * 115)
    gradients = torch.autograd.grad(value, leaves)
    exact = [leaf.requires_grad_() for leaf in (hidden, *tables)]
    expected = torch.autograd.grad(_reference(exact[0], exact[1:], targets, weights), exact)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert ours.dtype == weights_dtype
        assert (ours.float() - theirs).norm() < 2**-6 * theirs.norm()  # 8 bits of scores, probabilities and products


def test_large_scores_do_not_overflow() -> None:
    hidden, tables, targets, weights = _example()
    leaves = [(hidden * 1000).requires_grad_(), *tables]
    value, losses = chunked_cross_entropy(leaves[0], leaves[1:], targets, weights, chunk_bytes=4000)
    torch.testing.assert_close(value, _reference(leaves[0], leaves[1:], targets, weights), rtol=1e-5, atol=0)
    assert losses.max() > 1000
    (gradient,) = torch.autograd.grad(value, leaves[0])
    assert gradient.isfinite().all()


def test_a_device_with_much_memory_holds_more_scores_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chunk_bytes(100, gpu) == 100
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=64_064))
    assert [chunk_bytes(100, gpu), chunk_bytes(5_000, gpu), chunk_bytes(100, cpu)] == [1_001, 5_000, 100]


def test_a_second_backward_pass_is_refused() -> None:
    hidden, tables, targets, weights = _example()
    hidden.requires_grad_()
    value, _ = chunked_cross_entropy(hidden, tables, targets, weights, chunk_bytes=4000)
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run the forward pass again"):
        value.backward()


@pytest.mark.parametrize(("chunk_bytes", "positions"), [(20 * 4 * 800, 20), (21 * 4 * 800 - 1, 20), (1, 1)])
def test_scores_of_as_many_positions_as_fit_exist_at_once(chunk_bytes: int, positions: int) -> None:
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        numel = positions = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's signature
            result = func(*args, **(kwargs or {}))
            for value in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(value, Tensor):
                    self.numel = max(self.numel, value.numel())
                    is_of_scores = value.ndim == 2 and value.shape[1] == 800
                    self.positions = max(self.positions, len(value) if is_of_scores else 0)
            return result

    hidden, tables, targets, weights = _example(positions=70, rows=(300, 500))
    for leaf in (hidden, *tables):
        leaf.requires_grad_()
    with Largest() as largest:
        value, losses = chunked_cross_entropy(hidden, tables, targets, weights, chunk_bytes=chunk_bytes)
        value.backward()
    assert largest.positions == positions
    assert largest.numel <= max(20 * 800, 500 * 16)
    assert not losses.requires_grad  # of each position, for reports


def test_targets_never_cross_documents_or_enter_padding() -> None:
    labels = torch.tensor([[10, 11, -100, 13, 20, 21, 0, 0]])
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 0, 0]])
    trained = next_tokens(labels, segments)
    assert trained.positions_BT.tolist() == [[True, False, True, False, True, False, False]]
    assert trained.targets_M.tolist() == [11, 13, 21]
