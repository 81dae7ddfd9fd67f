"""What one worker watches in each step of the training loop. All workers call the same methods at the same steps.

Nothing here changes what is trained. The cost for a step is measured by `tests/benchmarks/bench_watching.py`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.artifact import JSON
from stages.training.agreement import WorkerRank, gather_texts
from stages.training.config import LoopConfig, WatchSettings
from stages.training.program import MicroBatch, Pass, TrainingProgram, step_flops_of, validation_of
from stages.training.step_sums import StepSums
from stages.training.strategies.strategy import Strategy
from stages.training.watching.baseline import BASELINES, Baselines
from stages.training.watching.forward_time import ForwardTime
from stages.training.watching.node_proof import CPU, GPU, matmul_seconds, node_name
from stages.training.watching.notices import CORRUPT_WORKER, LAYOUT, SLOW_WORKER, WORKERS, Notice, Notify
from stages.training.watching.spikes import SpikedStep, SpikeError, describe_spike
from stages.training.watching.system_metrics import SystemMetrics
from stages.training.watching.throughput import device_name, peak_flops, throughput_metrics
from stages.training.watching.validation import BEST, VALIDATION, Best, best_of, validate
from stages.training.watching.verification import (
    ODD_REPLICA,
    CorruptWorkerError,
    is_verified,
    odd_replicas,
    verify_step,
)
from stages.training.watching.workers_compared import (
    Stragglers,
    WorkerFigures,
    compared_metrics,
    gather_figures,
    memory_gib,
)


@dataclass(frozen=True, kw_only=True)
class StepAmounts:
    """Of one step, over all workers."""

    tokens: float
    padding: float


SPIKE_PAUSE = 20  # steps after a spike in which no other one is described

logger = logging.getLogger(__name__)


class StepWatch:
    """Made once a training (again after data were skipped), when the program is spread over the workers."""

    def __init__(
        self,
        program: TrainingProgram,
        loop: LoopConfig,
        settings: WatchSettings,
        strategy: Strategy,
        worker: WorkerRank,
        *,
        notify: Notify,
        saved: Mapping[str, JSON],
        first_step: int,
    ) -> None:
        """`saved`: facts of the checkpoint that training continues from, after `first_step` steps."""
        self._program, self._loop, self._settings = program, loop, settings
        self._strategy, self._worker, self._notify = strategy, worker, notify
        self._baselines = Baselines(saved.get(BASELINES))
        self._forward = ForwardTime(program.passes, worker.device)
        self._stragglers = Stragglers(share=settings.straggler_share, window=settings.straggler_window)
        self._nodes = gather_texts(node_name(), worker)
        self._system = SystemMetrics(worker.device) if worker.rank == 0 else None
        self._peak = peak_flops(worker.device, settings.peak_tflops) if worker.rank == 0 else 0.0
        self._flops = step_flops_of(program) if worker.rank == 0 else 0.0
        is_validated = settings.validate_every and not settings.validate_beside
        self._validation = validation_of(program) if is_validated else None
        self.best = best_of(saved)
        self._data_wait_s, self._num_steps = 0.0, 0
        self._described_at = -SPIKE_PAUSE
        self._alike_at = first_step  # the replicas of the parameters were equal before this step
        self.unsound_after: int | None = None  # checkpoints of later steps may hold what a corrupt worker computed
        if worker.rank == 0:
            notify(Notice(kind=WORKERS, fields={"nodes": self._nodes}))

    def layout(self, strategy: str) -> Notice:
        """What the speed of these steps is measured on."""
        device, peak_tflops = device_name(self._worker.device), self._peak / 1e12
        fields = {"workers": self._worker.world_size, "strategy": strategy, "device": device}
        return Notice(kind=LAYOUT, fields={**fields, "peak_tflops": round(peak_tflops, 3)})

    def facts(self) -> dict[str, JSON]:
        """To be saved with a checkpoint."""
        best: dict[str, JSON] = {} if self.best is None else {BEST: self.best.to_json()}
        return {BASELINES: self._baselines.to_json(), **best}

    def verify(self, step: int, micro_batches: Sequence[MicroBatch], num_micro_steps: int) -> None:
        """Compute the step beforehand and compare, if it is its turn. Raises: CorruptWorkerError on all workers."""
        if not is_verified(step, every=self._settings.verify_every, seed=self._loop.seed):
            return
        odd = {rank: ODD_REPLICA for rank in odd_replicas(self._program, self._worker)}
        if odd:
            self.unsound_after = self._alike_at
        else:
            self._alike_at = step
            with self._forward.ignored():
                odd = verify_step(
                    self._program,
                    self._strategy,
                    micro_batches,
                    step=step,
                    num_micro_steps=num_micro_steps,
                    worker=self._worker,
                )
        if not odd:
            return
        found = [f"worker {rank} on {self._nodes[rank]}: {what}" for rank, what in sorted(odd.items())]
        message = f"step {step}: silent corruption: {'; '.join(found)}"
        if self._worker.rank == 0:
            nodes = sorted({self._nodes[rank] for rank in odd})
            fields = {"step": step, "workers": sorted(odd), "nodes": nodes, "message": message}
            self._notify(Notice(kind=CORRUPT_WORKER, fields=fields))
        raise CorruptWorkerError(message)

    def check_spike(
        self,
        training_pass: Pass,
        sums: StepSums,
        micro_batches: Sequence[MicroBatch],
        *,
        step: int,
        data_step: int,
        loss: float,
        norm: float,
        may_skip: bool,
    ) -> None:
        """Compare a step with those before it, and describe it if it is a spike. Before the optimizer's step.

        Raises: SpikeError on all workers if its data are to be skipped, which needs `may_skip`.
        """
        baseline = self._baselines.of(training_pass.name)
        of_loss, of_norm = baseline.score(loss, norm)
        limits = [limit for limit in (self._settings.spike_z, self._loop.skip_spikes_z) if limit]
        if not limits or max(of_loss, of_norm) < min(limits):
            baseline.add(loss, norm)
            return
        is_skipped = may_skip and 0 < self._loop.skip_spikes_z <= max(of_loss, of_norm)
        if not is_skipped and step < self._described_at + SPIKE_PAUSE:  # a training that diverges has many
            baseline.add(loss, norm)
            return
        self._described_at = step
        spike = SpikedStep(
            step=step,
            data_step=data_step,
            pass_name=training_pass.name,
            loss=loss,
            grad_norm=norm,
            loss_z=of_loss,
            grad_norm_z=of_norm,
            learning_rates=tuple(self._strategy.learning_rates(training_pass)),
            gradient_norms=self._strategy.gradient_norms(training_pass, norm),
        )
        describe_spike(spike, sums, micro_batches, program=self._program, worker=self._worker, notify=self._notify)
        if is_skipped:
            raise SpikeError(f"{spike}; its data are skipped")
        baseline.add(loss, norm)

    def end_step(self, step: int, *, step_s: float, data_wait_s: float, amounts: StepAmounts) -> dict[str, float]:
        """The metrics of a step that is done. `step`: steps done; `data_wait_s`: of this worker."""
        self._data_wait_s += data_wait_s
        self._num_steps += 1
        metrics = dict(
            throughput_metrics(
                tokens=amounts.tokens,
                padding=amounts.padding,
                step_s=step_s,
                step_flops=self._flops,
                peak=self._peak,
                workers=self._worker.world_size,
            )
        )
        if step % self._settings.every == 0 or step == self._loop.steps:
            metrics |= self._compare(step)
        return metrics

    def validate(self, step: int) -> dict[str, float]:
        """The metrics of a validation if it is time for one, and {} otherwise. `step`: steps done."""
        data, every = self._validation, self._settings.validate_every
        if data is None or not every or (step % every and step != self._loop.steps):
            return {}
        with self._forward.ignored():
            metrics = validate(
                self._program,
                data,
                self._strategy,
                step=step,
                max_micro_batches=self._settings.validate_micro_batches,
                worker=self._worker,
                notify=self._notify,
            )
        value = metrics.get(f"{VALIDATION}{self._settings.keep_best}")
        if metrics and self._settings.keep_best and value is None:
            found = ", ".join(name.removeprefix(VALIDATION) for name in metrics)
            logger.warning("keep_best: no metric %r, found %s", self._settings.keep_best, found)
        if value is not None and (self.best is None or value < self.best.value):
            self.best = Best(step=step, value=value)
        return metrics

    def is_best(self, step: int) -> bool:
        """Whether the checkpoint of this step is to be kept as the best one."""
        return self.best is not None and self.best.step == step

    def close(self) -> None:
        self._forward.close()

    def _compare(self, step: int) -> dict[str, float]:
        figures = gather_figures(self._own_figures(), self._worker)
        self._data_wait_s, self._num_steps = 0.0, 0
        named = self._stragglers.judge(figures)
        if self._system is None:
            return {}
        metrics = compared_metrics(figures)
        for rank in named:
            fields: dict[str, JSON] = {
                "step": step,
                "worker": rank,
                "node": self._nodes[rank],
                "own_step_s": round(figures[rank].own_s, 6),
                "median_s": round(metrics["workers/own_step_s_median"], 6),
                "data_wait_s": round(figures[rank].data_wait_s, 6),
            }
            self._notify(Notice(kind=SLOW_WORKER, fields=fields))
        return {**metrics, **self._system.sample()}

    def _own_figures(self) -> WorkerFigures:
        steps, worker = max(1, self._num_steps), self._worker
        data_wait_s, computed_s = self._data_wait_s / steps, self._forward.take() / steps
        waits = self._strategy.equal_micro_steps or worker.sequence_workers > 1
        if waits and worker.world_size > 1:  # forward passes wait for other workers
            computed_s = matmul_seconds(worker.device, GPU if worker.device.type == "cuda" else CPU)[0]
        else:
            own = len(range(worker.rank, self._loop.micro_batches_per_step, worker.world_size))
            computed_s *= -(-self._loop.micro_batches_per_step // worker.world_size) / own  # as if all had as many
        return WorkerFigures(own_s=data_wait_s + computed_s, data_wait_s=data_wait_s, memory_gib=memory_gib(worker))
