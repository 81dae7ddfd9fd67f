"""What the stage's driver does with what its workers find: log lines, events, and a folder that people can open."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.history.node_offences import NODE_OFFENCE
from orchestrator.stage import StageContext
from stages.training.watching.notices import (
    CORRUPT_WORKER,
    LAYOUT,
    PREEMPTED,
    SLOW_WORKER,
    SPIKE,
    SPIKE_FILE,
    UNFIT_NODE,
    WORKERS,
    Notice,
)
from stages.training.watching.spike_report import SPIKE_REPORT

logger = logging.getLogger(__name__)

EVENT_SAMPLES = 8  # named in the event of a spike


class Findings:
    """Takes the notices of one attempt's workers."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self.nodes: Sequence[str] = ()  # of the workers, by rank; () before they have met
        self.unfit: dict[str, str] = {}  # node -> what is wrong with it, found before the first step
        self.preempted = ""  # why the workers ended before the last step; "": not for that
        self._handlers: Mapping[str, Callable[[Notice], None]] = {
            WORKERS: self._workers,
            LAYOUT: self._layout,
            SLOW_WORKER: self._slow_worker,
            UNFIT_NODE: self._unfit_node,
            CORRUPT_WORKER: self._corrupt_worker,
            SPIKE: self._spike,
            SPIKE_FILE: self._spike_file,
            PREEMPTED: self._preempted,
        }

    def take(self, notice: Notice) -> None:
        handler = self._handlers.get(notice.kind)
        if handler is not None:
            handler(notice)
        else:
            self._event(notice.kind, notice.fields)
            logger.warning("%s: %s", self._context.stage_id, notice.fields.get("message", notice.kind))

    def node_of(self, rank: int) -> str:
        return self.nodes[rank] if rank < len(self.nodes) else ""

    def _workers(self, notice: Notice) -> None:
        self.nodes = tuple(notice.fields["nodes"])

    def _layout(self, notice: Notice) -> None:
        self._event(notice.kind, notice.fields)  # for estimates of the next runs

    def _slow_worker(self, notice: Notice) -> None:
        found = notice.fields
        message = (
            f"worker {found['worker']} on {found['node']} is slow: its own part of a step takes "
            f"{found['own_step_s']:.3g} s, the median is {found['median_s']:.3g} s; {found['data_wait_s']:.3g} s of it "
            "waiting for data"
        )
        logger.warning("%s: step %d: %s", self._context.stage_id, found["step"], message)
        self._event(notice.kind, found)
        self._offence(found["node"], "slow", is_certain=False)

    def _unfit_node(self, notice: Notice) -> None:
        found = notice.fields
        message = f"worker {found['worker']} on {found['node']}: {found['what']}"
        logger.warning("%s: before the first step: %s", self._context.stage_id, message)
        self._event(notice.kind, found)
        self.unfit[found["node"]] = message

    def leave_out(self, nodes: Sequence[str]) -> None:
        """The next attempts are to start without these nodes."""
        for node in nodes:
            self._offence(node, self.unfit.get(node, "unfit"), is_certain=True)

    def _corrupt_worker(self, notice: Notice) -> None:
        logger.error("%s: %s", self._context.stage_id, notice.fields["message"])
        self._event(notice.kind, notice.fields)
        for node in notice.fields["nodes"]:
            self._offence(node, "corrupt", is_certain=len(notice.fields["nodes"]) == 1)

    def _spike(self, notice: Notice) -> None:
        folder = self._folder(notice.fields["step"])
        (folder / SPIKE_REPORT).write_text(json.dumps(dict(notice.fields), indent=1), encoding="utf-8")
        logger.warning(
            "%s: %s; what it held: illume trace %s", self._context.stage_id, notice.fields["message"], folder
        )
        samples = [name.partition(" ")[0] for found in notice.fields["samples"] for name in found["samples"]]
        kept = ("step", "data_step", "pass_name", "loss", "grad_norm", "loss_z", "grad_norm_z", "message")
        fields = {name: notice.fields[name] for name in kept}
        self._event(notice.kind, {**fields, "samples": samples[:EVENT_SAMPLES], "folder": str(folder)})

    def _spike_file(self, notice: Notice) -> None:
        (self._folder(notice.fields["step"]) / Path(notice.fields["name"]).name).write_bytes(notice.content)

    def _folder(self, step: int) -> Path:
        folder = self._context.findings / f"spike-step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _preempted(self, notice: Notice) -> None:
        step, message = notice.fields["step"], notice.fields["message"]
        self.preempted = f"{message}; a checkpoint was made after step {step}, and no step is lost"
        logger.warning("%s: %s", self._context.stage_id, self.preempted)
        self._event("preemption_notice", notice.fields)

    def _offence(self, node: str, what: str, *, is_certain: bool) -> None:
        self._event(NODE_OFFENCE, {"node": node, "what": what, "certain": is_certain})

    def _event(self, kind: str, fields: Mapping[str, Any]) -> None:
        self._context.tracker.log_event(kind, dict(fields))
