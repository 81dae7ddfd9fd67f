"""A made-up history that shows all that pages can show."""

import json
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.artifact import JSON
from orchestrator.attempt_id import AttemptId
from orchestrator.history.events import RunState
from orchestrator.history.telemetry import Telemetry
from orchestrator.queue.records import A_PERSON
from orchestrator.web.questions.asking import FOLDER
from orchestrator.web.questions.records import LOCK, OUT, Question, put_end, put_question

if TYPE_CHECKING:
    from tests.orchestrator.web.conftest import MadeUp

LIVE, BROKEN, DONE = "20260504-101500-live00", "20260504-091500-broken", "20260504-081500-done00"
ASKS = "20260504-071500-asks00"  # it waits for the word of a person
STAGES = ("raw", "ingested", "curated", "tokens", "model", "evaluated")
STEP = 7  # of the training of `LIVE`, whose samples are known
HOSTILE = '</pre><img src="https://example.com/x.png" onerror="alert(1)"> no memory left'


def make_history(made_up: "MadeUp") -> None:
    """A run that is done, one that failed with a second attempt and a lost worker, and one at work on `model`."""
    for run_id, state in ((DONE, RunState.SUCCEEDED), (BROKEN, RunState.FAILED)):
        made_up.start(run_id, recipe="shapes", stages=STAGES)
        for stage in STAGES[:3]:
            made_up.commit(run_id, stage, recipe="shapes")
        if state == RunState.SUCCEEDED:
            for stage in STAGES[3:]:
                made_up.commit(run_id, stage, recipe="shapes")
        else:
            lost = {"failure": "NODE_LOST", "message": "node-17 is gone", "shard": "s4"}
            made_up.record(run_id, "worker_lost", lost, stage="tokens")
            made_up.fail(run_id, "tokens", HOSTILE, failure_class="host_oom", recipe="shapes")
            made_up.fail(run_id, "tokens", HOSTILE, failure_class="host_oom", recipe="shapes", number=2)
        made_up.end(run_id, state, "stage tokens failed" if state == RunState.FAILED else "")
    put_log(made_up, BROKEN, "tokens-1-2.log", f"2026-05-04T09:15:00Z INFO tokens: {HOSTILE}\n" * 40)
    made_up.start(ASKS, recipe="shapes-asked", stages=STAGES)
    made_up.record(ASKS, "waiting", {"for": f"{A_PERSON}: `illume approve {ASKS}:model`"}, stage="model")
    made_up.start(LIVE, recipe="shapes-large", stages=STAGES)
    for stage in STAGES[:4]:
        made_up.commit(LIVE, stage, recipe="shapes-large")
    attempt = made_up.attempt(LIVE, "model", recipe="shapes-large")
    made_up.record(LIVE, "waiting", {"for": "gpus: 8, 2 are free"}, stage="evaluated")
    made_up.record(LIVE, "worker_started", {"host": "node-1", "pid": 7}, stage="model", attempt=attempt)
    offence: dict[str, Any] = {"node": "node-9", "what": "corrupt", "certain": True}
    made_up.record(LIVE, "node_offence", offence, stage="model")
    train(made_up, LIVE, steps=200)
    record_shards(made_up, BROKEN)
    put_answers(made_up)


def record_shards(made_up: "MadeUp", run_id: str) -> None:
    """A map of 1,000 shards in the second attempt at `tokens`: one was slow, one retried, one has quarantined items."""
    special: dict[int, list[JSON]] = {300: [41.5, 1, 0], 301: [1.0, 3, 0], 302: [1.0, 1, 7]}
    done: list[JSON] = [[place, f"s-{place:05d}", *special.get(place, [0.5, 1, 0])] for place in range(990)]
    for kind, fields in (("shards_planned", {"shards": 1000, "reused": 0}), ("shards_done", {"shards": done})):
        of_map: dict[str, JSON] = {"label": "encode", **fields}
        made_up.record(run_id, kind, of_map, stage="tokens", attempt=f"{run_id}-tokens-1-2")


def put_answers(made_up: "MadeUp") -> None:
    """Answers that processes have left: the samples of a step, and a comparison."""
    where: dict[str, JSON] = {"shard": "s0", "offset": 0, "span_bytes": 512, "dataset": "f" * 64}
    sample: dict[str, JSON] = {
        "sample_id": "a" * 64,
        "task": "generation",
        "source": "web",
        "images": [[64, 48]],
        **where,
    }
    asked = ("samples", f"{LIVE}:model", str(STEP), "--json")
    put_answer(made_up, "20260504-101500-step", asked, json.dumps({"format": 1, "samples": [sample]}))
    put_answer(made_up, "20260504-101500-diff", ("diff", DONE, BROKEN), f"the same recipe\n{HOSTILE}\n")


def put_answer(made_up: "MadeUp", name: str, arguments: tuple[str, ...], text: str) -> None:
    question = Question(
        id=name,
        kind=arguments[0],
        title=" ".join(arguments),
        arguments=arguments,
        where=(),
        asked_by="alice",
        asked_at=1.0,
    )
    place = put_question(made_up.workspace.root / "web" / FOLDER, question)
    (place / OUT).write_text(text)
    (place / LOCK).touch()
    put_end(place, 0)


def put_log(made_up: "MadeUp", run_id: str, name: str, text: str) -> None:
    folder = made_up.workspace.root / "store" / "runs" / run_id / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def train(made_up: "MadeUp", run_id: str, *, steps: int) -> None:
    """Metrics of the attempt at `model`."""
    telemetry = Telemetry(made_up.workspace.database)
    tracker = telemetry.tracker(AttemptId.of(run_id, "model", epoch=made_up.leases[run_id].epoch, number=1))
    for step in range(steps):
        loss = 6.0 / (1.0 + step / 40.0) + 0.2 * ((step * 7919) % 13) / 13
        names = {"language/loss": loss, "language/lr": 1e-3 * min(1.0, step / 20), "language/grad_norm": loss / 3}
        costs = {"weight_per_s": 7000.0 + step, "data_wait_s": 0.01, "steps_per_s": 5.0, "mfu": 0.41}
        saved = {"checkpoint_stall_s": 0.2} if step % 50 == 49 else {}
        tracker.log_metrics({**names, **costs, **saved}, step=step)
        tracker.progress(step + 1, 400, "steps")
    telemetry.close()


def fingerprint_of(made_up: "MadeUp", recipe: str, stage: str) -> str:
    """As `MadeUp` gives it."""
    found: str = sys.modules[type(made_up).__module__].fingerprint(recipe, stage)
    return found
