"""What every attempt writes into its log at its start and at its end, whatever its stage is."""

import json
import logging
import os
import platform
import socket
from collections.abc import Collection, Mapping, Sequence

from orchestrator.artifact import JSON, Artifact
from orchestrator.attempt_id import AttemptId
from orchestrator.identity import config_to_json, to_json
from orchestrator.installation.version import version_text
from orchestrator.planning.plan import PlannedStage
from orchestrator.plugins.kind_words import headline_of, warnings_of

log = logging.getLogger(__name__)

SHORT_IDENTITY = 12  # hex digits
NUM_METRICS = 40  # of a line


def log_start(
    planned: PlannedStage,
    attempt: AttemptId,
    inputs: Mapping[str, Sequence[Artifact]],
    *,
    memory_halvings: int,
    avoided_nodes: Collection[str],
) -> None:
    """Who runs what, where, with which settings and inputs."""
    spec = planned.spec
    log.info(
        "%s: attempt %s starts: kind %s version %d, identity %s",
        planned.id,
        attempt,
        spec.kind.name,
        spec.kind.version,
        planned.fingerprint[:SHORT_IDENTITY],
    )
    log.info(
        "%s: on %s, process %d, Python %s, illume %s, epoch %d",
        planned.id,
        socket.gethostname(),
        os.getpid(),
        platform.python_version(),
        version_text(),
        attempt.epoch,
    )
    log.info("%s: config %s", planned.id, _text(config_to_json(spec.config)))
    log.info("%s: resources %s, retry %s", planned.id, _text(to_json(spec.resources)), _text(to_json(spec.retry)))
    if execution := config_to_json(spec.execution):
        log.info("%s: execution %s", planned.id, _text(execution))
    if memory_halvings:
        log.info("%s: memory is halved %d times, as earlier attempts ran out of it", planned.id, memory_halvings)
    if avoided_nodes:
        log.info("%s: nodes to do without, as the run found them unfit: %s", planned.id, ", ".join(avoided_nodes))
    for slot, artifacts in inputs.items():
        for artifact in artifacts:
            log.info("%s: input %s: %s %s", planned.id, slot, artifact.kind, artifact.path)


def log_result(
    planned: PlannedStage, attempt: AttemptId, artifact: Artifact, metrics: Mapping[str, float], *, seconds: float
) -> None:
    """What came out."""
    kind = planned.spec.kind
    if headline := headline_of(kind, metrics):
        log.info("%s: %s", planned.id, headline)
    for warning in warnings_of(kind, metrics):
        log.warning("%s: %s", planned.id, warning)
    shown = [f"{name} {value:.6g}" for name, value in metrics.items() if value][:NUM_METRICS]
    more = len([value for value in metrics.values() if value]) - len(shown)
    log.info("%s: metrics: %s%s", planned.id, ", ".join(shown) or "none", f" and {more} more" if more else "")
    log.info("%s: attempt %s is committed after %.1f s: %s", planned.id, attempt, seconds, artifact.path)


def _text(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False)
