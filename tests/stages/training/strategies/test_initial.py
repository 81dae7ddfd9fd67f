"""Trainings that go on from a model: each worker reads its own slices, and frozen parts take half the memory."""

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from models.mllm.weights import save
from orchestrator.stage import RetryPolicy
from stages.training.agreement import WorkerRank
from stages.training.checkpoints import reader
from stages.training.config import LoopConfig, OptimizerConfig, TrainingExecution
from stages.training.loop import run_worker
from stages.training.strategies import torch_strategy
from stages.training.strategies.choice import make_strategy
from tests.stages.training.strategies.tiny_mllm import TinyMllm, TinyTask, new_model
from tests.stages.training.test_loop import Recorder, checkpoints, single_worker

SETTINGS = OptimizerConfig(schedule="constant", warmup_share=0.0)
FP32 = LoopConfig(steps=3, micro_batches_per_step=4, seed=1, optimizer=SETTINGS)
BF16 = LoopConfig(steps=3, micro_batches_per_step=4, seed=1, optimizer=SETTINGS, precision="bf16")
PHASE = "stage2"  # trains all but the vision branch
FSDP2 = TrainingExecution(strategy="fsdp2")
PATIENCE_S = 120.0
SLACK_BYTES = 4_000  # buffers that are not sharded, counts of steps, and rows that do not divide by two


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    save(new_model(TinyTask(phase=PHASE).seed), folder)
    return folder


def train(
    folder: Path,
    start: Path | str,
    *,
    loop: LoopConfig = FP32,
    worker: WorkerRank | None = None,
    execution: TrainingExecution | None = None,
    stop_after: int = -1,
) -> list[float]:
    recorder = Recorder(stop_after=stop_after)
    run_worker(
        TinyMllm,
        TinyTask(phase=PHASE, start=str(start)),
        loop,
        retry=RetryPolicy(checkpoint_every=100),
        checkpoints=checkpoints(folder),
        reporter=recorder,
        worker=worker or single_worker(),
        execution=execution or TrainingExecution(),
    )
    return [metrics["language/loss"] for _, metrics in recorder.steps]


def work(rank: int, folder: str, start: str, results: Any) -> None:
    """Train in two parts. Sends the losses, and the bytes read from each file in each part."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    read = reader._Blocks.read
    counts = Counter[str]()

    def counting(self: Any, name: str, offset: Sequence[int], extent: Sequence[int]) -> torch.Tensor:
        found = read(self, name, offset, extent)
        counts["start" if str(self.blocks[name][0].file).startswith(start) else "checkpoint"] += found.nbytes
        return found

    patch.object(reader._Blocks, "read", counting).start()  # in this process alone
    worker = WorkerRank(rank=rank, world_size=2, device=torch.device("cpu"))
    losses, parts = list[float](), list[dict[str, int]]()
    for stop_after in (0, -1):
        counts.clear()
        losses += train(Path(folder), start, worker=worker, execution=FSDP2, stop_after=stop_after)
        parts.append(dict(counts))
    results.put((rank, losses, parts))


def test_each_worker_reads_only_its_slices_of_the_start_and_of_a_checkpoint(start: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "stages.training.loop", __name__])
    results: Any = context.Queue()
    workers = [context.Process(target=work, args=(rank, str(tmp_path), str(start), results)) for rank in range(2)]
    for process in workers:
        process.start()
    found = [results.get(timeout=PATIENCE_S) for _ in workers]
    for process in workers:
        process.join(PATIENCE_S)

    undisturbed = train(tmp_path / "whole", "")  # built in memory, by one worker
    sizes = {name: tensor.nbytes for name, tensor in new_model(3).state_dict().items()}
    frozen = sum(size for name, size in sizes.items() if name.startswith("vision."))
    trained = sum(sizes.values()) - frozen
    for _, losses, (first, second) in found:
        assert losses == pytest.approx(undisturbed, rel=1e-5)
        # Frozen tensors are read once more, by one of the workers each, to be compared by their digests.
        assert first == {"start": pytest.approx((trained + frozen) / 2 + frozen / 2, abs=SLACK_BYTES)}
        assert second["start"] == pytest.approx(frozen / 2 + frozen / 2, abs=SLACK_BYTES)
        assert second["checkpoint"] == pytest.approx(3 * trained / 2, abs=SLACK_BYTES)  # with both moments of Adam


def test_frozen_parts_take_half_the_memory_and_results_are_the_same_to_the_bit(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halved = train(tmp_path / "halved", start, loop=BF16)
    with monkeypatch.context() as patched:
        patched.setattr(torch_strategy, "halve_frozen", lambda _program, _frozen: None)
        assert train(tmp_path / "whole", "", loop=BF16) == halved

    program = TinyMllm(TinyTask(phase=PHASE, start=str(start)))
    strategy = make_strategy(program, BF16, TrainingExecution(), single_worker())
    step = program.passes[0]
    strategy.begin_step(step, 1.0)
    strategy.micro_step(step, program.micro_batch(0, 0), step=0, scale=1.0, is_last=True)
    strategy.clip(step)
    strategy.apply(step)
    frozen = {name: value for name, value in program.model.named_parameters() if not value.requires_grad}
    assert frozen
    assert all(value.grad is None for value in frozen.values())
    matrices = [value for value in frozen.values() if value.ndim > 1]
    assert {value.dtype for value in matrices} == {torch.bfloat16}
    assert sum(value.nbytes for value in frozen.values() if value.ndim == 1) < 0.1 * sum(v.nbytes for v in matrices)
    written = {item.name for item in strategy.slices()}
    assert not any(name.startswith(("weights/mllm/vision.", "optimizer/language/model.vision.")) for name in written)
    assert {value.dtype for value in program.model.parameters() if value.requires_grad} == {torch.float32}
