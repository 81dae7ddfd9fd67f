"""Follows the workers of one attempt: passes on what they report, and ends a group that makes no progress."""

import logging
import time
from collections.abc import Callable, Mapping

from orchestrator.artifact import JSON
from orchestrator.errors import CancelledError, NodeLostError
from orchestrator.stage import StageContext
from stages.training.beside.validations import ValidationsBeside
from stages.training.config import LoopConfig
from stages.training.step_line import CHECKPOINT_WRITE_S, SYSTEM, LinePace, step_figures, step_line
from stages.training.watching.findings import Findings
from stages.training.watching.stacks import StackGroup, describe_groups, differing_ranks, group_stacks
from stages.training.watching.timeouts import suspect_after_s
from stages.training.workers.group import WorkerGroup
from stages.training.workers.reports import Report

logger = logging.getLogger(__name__)


class GroupMonitor:
    """Polls the worker reports. Used by one thread."""

    def __init__(
        self,
        group: WorkerGroup,
        loop: LoopConfig,
        context: StageContext,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        beside: ValidationsBeside | None = None,
    ) -> None:
        """`unit`: of the weight of a micro-batch, for the log. `beside`: is told of checkpoints."""
        self._beside = beside
        self._group, self._loop, self._context, self._unit, self._clock = group, loop, context, unit, clock
        self._progressed_at: float | None = None  # None: no worker has started, e.g. while nodes are added
        self._pace = LinePace()
        self._step = 0  # newest
        self._newest_steps: dict[int, int] = {}  # by rank, as far as each has reported
        self._waits_for = ""  # as it was recorded
        self._is_left_out = False
        self.findings = Findings(context)
        self.metrics: dict[str, float] = {}
        self.error: Exception | None = None  # the first that a worker raised on purpose
        self.processes: Mapping[int, tuple[str, int]] = {}  # rank -> node id, process id
        self.suspected = ""  # what the stacks say since the last step; "": none were taken
        self.hung: str | None = None  # message, once the group was killed for making no progress

    def poll(self) -> None:
        """Raises: CancelledError: stopped before workers had started; NodeLostError: unfit nodes, and others free."""
        stop = self._context.stop_requested()
        report = self._group.collect(stop)
        if report is None:
            return
        if stop and not report.processes:  # they wait for a node or load a checkpoint, and may do so for hours
            raise CancelledError(f"{self._context.stage_id}: stopped before its workers had started")
        self._take(report)
        if self._progressed_at is None and not report.processes:
            self._note_wait(self._group.waiting_for())
            return
        self._note_wait("")
        if self._progressed_at is None:
            self._progressed_at = self._clock()
        self._leave_out_unfit_nodes()
        self._look_for_hang(self._clock() - self._progressed_at)

    def _take(self, report: Report) -> None:
        self.error, self.processes = report.error, report.processes
        for notice in report.notices:
            self.findings.take(notice)
        self._newest_steps.update(report.newest_steps)
        if self._beside is not None:
            self._beside.poll()
        for step, metrics in report.steps:
            if self._beside is not None and CHECKPOINT_WRITE_S in metrics:
                self._beside.committed(step)
            self._progressed_at, self._step, self.suspected = self._clock(), step, ""
            if metrics:
                result = {name: value for name, value in metrics.items() if not name.startswith(SYSTEM)}
                self.metrics = {**self.metrics, **result}  # a step without trained data has no losses
                self._log(step, metrics)
                self._context.tracker.log_metrics(metrics, step=step)
            self._context.tracker.progress(step, self._loop.steps, "steps")

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._pace.is_due(is_last=step == self._loop.steps):
            figures = step_figures(step, self._loop.steps, {**self.metrics, **metrics}, nodes=self.findings.nodes)
            logger.info("%s: %s", self._context.stage_id, step_line(figures, unit=self._unit))

    def _note_wait(self, text: str) -> None:
        """Record once what the workers wait for, and once that they wait no more."""
        if bool(text) != bool(self._waits_for):
            self._context.tracker.log_event("waiting" if text else "waited", {"for": text or self._waits_for})
        self._waits_for = text

    def _leave_out_unfit_nodes(self) -> None:
        """End the attempt before its first step if unfit nodes can be replaced; else it goes on with them."""
        unfit = self.findings.unfit
        if not unfit or self._is_left_out:
            return
        self._is_left_out = True
        stage, nodes = self._context.stage_id, sorted(unfit)
        if not self._group.has_spare(nodes):
            logger.warning("%s: no node to spare, training goes on with %s", stage, ", ".join(nodes))
            return
        self.findings.leave_out(nodes)
        self._group.stacks(self.processes, kill=True)
        raise NodeLostError(f"{stage}: unfit nodes are left out: {'; '.join(unfit[node] for node in nodes)}")

    def _look_for_hang(self, idle_s: float) -> None:
        limit_s = self._context.retry.hang_after_s
        if self.hung is not None or idle_s <= suspect_after_s(limit_s):
            return
        stage, is_over = self._context.stage_id, idle_s > limit_s
        if not is_over and self.suspected:
            return
        what, groups = self._compare_stacks(kill=is_over)
        after = f"no training step ended for {idle_s:.0f} s"
        differing: list[JSON] = [*differing_ranks(groups)]
        if is_over:
            self.hung = f"{stage}: {after}; the workers were killed, their stacks are logged{what}"
        else:
            self.suspected = f"{after} after step {self._step}{what}"
            logger.warning("%s: %s", stage, self.suspected)
            self._context.tracker.log_event(
                "hang_suspected", {"step": self._step, "workers": differing, "message": self.suspected}
            )

    def _compare_stacks(self, *, kill: bool) -> tuple[str, list[StackGroup]]:
        """What the stacks of all workers say, in lines that go on after a sentence."""
        groups = group_stacks(self._group.stacks(self.processes, kill=kill))
        names = {rank: self.findings.node_of(rank) or node for rank, (node, _) in self.processes.items()}
        for found in groups:
            ranks = ", ".join(map(str, found.ranks))
            logger.error("%s: stacks of hung worker %s:\n%s", self._context.stage_id, ranks, found.text)
        lines = [describe_groups(groups, names), *self._silent_workers()]
        text = "\n".join(line for line in lines if line)
        return (f"\n{text}" if text else ""), groups

    def _silent_workers(self) -> list[str]:
        resources = self._context.resources
        expected = len(self.findings.nodes) or (0 if resources.min_workers else resources.workers)
        missing = [rank for rank in range(expected) if rank not in self.processes]
        lines = [f"  never heard of: worker {', '.join(map(str, missing))}"] if missing else []
        behind = [f"{rank} ({step})" for rank, step in sorted(self._newest_steps.items()) if 0 <= step < self._step - 1]
        return lines + ([f"  newest step reported, where it is behind: worker {', '.join(behind)}"] if behind else [])
