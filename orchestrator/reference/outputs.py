"""The form of what commands print with `--json`: a JSON Schema (2020-12) for each, printed by `illume schema NAME`.

Rule: every output is an object with `format`, the number of its form, which grows when a key changes its meaning or
goes. New keys may come at any time, so readers must ignore those that they do not know. Commands print through
`commands/shared/json_output.py`, and a test compares what they print with these schemas.
"""

from collections.abc import Mapping

from orchestrator.reference.recipe_schema import DIALECT
from orchestrator.reference.schema_parts import (
    ANY,
    DIGEST,
    NUMBER,
    RUN_STATE,
    STAGE_STATE,
    TEXT,
    TIME,
    WHOLE,
    YES_NO,
    Schema,
    a_list,
    a_table,
    an_object,
    or_null,
)

FORMAT = 1  # of an output that has no other

RUN = an_object(
    {
        "run_id": TEXT,
        "recipe": TEXT,
        "plan_digest": DIGEST,
        "state": RUN_STATE,
        "epoch": WHOLE,
        "owner": TEXT,
        "cancel_requested": YES_NO,
        "message": TEXT,
        "created_at": TIME,
        "updated_at": TIME,
        "last_event": WHOLE,
    }
)
STAGE = an_object(
    {
        "stage_id": TEXT,
        "stage_kind": TEXT,
        "fingerprint": DIGEST,
        "action": {"enum": ["run", "reuse", "skip"]},
        "reasons": a_list(TEXT),
        "upstream": a_list(TEXT),
        "state": STAGE_STATE,
        "attempt": WHOLE,
        "done": WHOLE,
        "total": WHOLE,
        "unit": TEXT,
        "rate_per_s": NUMBER,
        "eta_s": or_null(NUMBER),
        "elapsed_s": or_null(NUMBER),
        "failure_class": TEXT,
        "message": TEXT,
    }
)
FILE = an_object({"path": TEXT, "bytes": WHOLE, "sha256": DIGEST})
SLOT = an_object({"kind": TEXT, "many": YES_NO, "required": YES_NO})
KEY: Schema = an_object(
    {"path": TEXT, "type": TEXT, "required": YES_NO, "default": ANY, "unit": TEXT, "comment": TEXT, "keys": a_list(ANY)}
)
KIND: dict[str, Schema] = {
    "name": TEXT,
    "version": WHOLE,
    "summary": TEXT,
    "inputs": a_table(SLOT),
    "output": TEXT,
    "config": a_list(KEY),
    "execution": a_list(KEY),
    "metrics": a_table(TEXT),
}
PLANNED: dict[str, Schema] = {
    "id": TEXT,
    "kind": TEXT,
    "config": a_table(ANY),
    "inputs": a_table(a_list(TEXT)),
    "payload": a_table(ANY),
    "fingerprint": DIGEST,
    "action": {"enum": ["run", "reuse", "skip"]},
    "reasons": a_list(an_object({"type": TEXT})),
    "estimate_s": or_null(NUMBER),
}
TAKEDOWN = an_object(
    {"format": WHOLE, "id": TEXT, "note": TEXT, "created": TIME, "content": a_table(ANY), "tainted": a_list(ANY)}
)
COST: Schema = an_object({"gpu_hours": NUMBER, "cpu_hours": NUMBER, "money": or_null(NUMBER)})
COST_PARTS: dict[str, Schema] = {"attempts": WHOLE, "spent": COST, "retries": COST, "lost": COST}
COSTS = an_object(COST_PARTS)
QUEUED = an_object(
    {
        "run_id": TEXT,
        "recipe": TEXT,
        "person": TEXT,
        "priority": WHOLE,
        "state": {"enum": ["WAITING", "RUNNING", "STOPPING"]},
        "position": or_null(WHOLE),
        "waits_for": TEXT,
        "submitted_at": TIME,
        "expected_start": or_null(TIME),
        "pool": TEXT,
        "after": a_list(TEXT),
        "schedule": TEXT,
    }
)
ASKED: dict[str, Schema] = {"run_id": TEXT, "seed": WHOLE}  # of inference
CHANGES = a_list(a_table(ANY))

# Name of the output -> what it is, its keys. A name is the command's; of a command with several, each has one.
OUTPUTS: Mapping[str, tuple[str, Schema]] = {
    "ask": (
        "the answer to a question about an image",
        an_object({**ASKED, "image": TEXT, "question": TEXT, "text": TEXT}),
    ),
    "audit": (
        "counts of a dataset's records, by verdict and more",
        an_object(
            {"name": TEXT, "rows": WHOLE, "orphans": WHOLE, "verdicts": a_table(WHOLE), "bytes": a_table(WHOLE)},
            optional={"tables": a_table(ANY), "histograms": a_table(ANY), "drift": a_table(ANY)},
        ),
    ),
    "budget list": (
        "what may be spent in a month",
        an_object(
            {"budgets": a_list(an_object({"who": TEXT, "gpu_hours": or_null(NUMBER), "money": or_null(NUMBER)}))}
        ),
    ),
    "cancel": (
        "what a cancel did",
        an_object(
            {"run_id": TEXT, "end": {"enum": ["asked", "cancelled", "waiting"]}, "jobs": a_list(TEXT), "found": TEXT}
        ),
    ),
    "describe": ("the description of an image", an_object({**ASKED, "image": TEXT, "text": TEXT})),
    "diff": (
        "what differs between two runs",
        an_object(
            {
                "before": a_table(ANY),
                "after": a_table(ANY),
                "recipe": a_table(ANY),
                "environment": CHANGES,
                "first": a_list(TEXT),
                "stages": a_list(a_table(ANY)),
                "data": a_table(ANY),
            }
        ),
    ),
    "doctor": (
        "the checks of this machine and its workspace",
        an_object({"findings": a_list(an_object({"name": TEXT, "is_ok": YES_NO, "found": TEXT, "advice": TEXT}))}),
    ),
    "du": (
        "the space in the store",
        an_object({"store": TEXT, "bytes": WHOLE, "files": WHOLE, "places": a_list(an_object({"what": TEXT}))}),
    ),
    "edit": (
        "the edited image",
        an_object({**ASKED, "image": TEXT, "instruction": TEXT, "files": a_list(TEXT)}),
    ),
    "estimate": (
        "what a recipe needs, takes and costs",
        an_object({"recipe": TEXT, "assumptions": a_table(ANY), "stages": a_list(an_object({"stage": TEXT}))}),
    ),
    "events": (
        "an event, one per line; also printed by `run --json` and `resume --json`",
        an_object(
            {
                "id": TEXT,
                "run": TEXT,
                "sequence": WHOLE,
                "time": NUMBER,
                "at": TIME,
                "epoch": WHOLE,
                "stage": or_null(TEXT),
                "attempt": or_null(TEXT),
                "kind": TEXT,
                "fields": a_table(ANY),
            }
        ),
    ),
    "events ACTOR": (
        "something that somebody did, one per line",
        an_object({"at": TIME, "time": NUMBER, "what": TEXT, "subjects": a_list(TEXT), "name": TEXT}),
    ),
    "explain": ("the planned stages of a run", an_object({"run_id": TEXT, "stages": a_list(an_object(PLANNED))})),
    "gc": (
        "what can be deleted, or was",
        an_object(
            {
                "unneeded": a_list(a_table(ANY)),
                "garbage": a_list(an_object({"reason": TEXT, "key": TEXT, "files": WHOLE, "bytes": WHOLE})),
                "copies": a_list(an_object({"key": TEXT, "bytes": WHOLE})),
                "collected": or_null(a_table(ANY)),
            }
        ),
    ),
    "generate": ("the images that were generated", an_object({**ASKED, "prompt": TEXT, "files": a_list(TEXT)})),
    "index rebuild": (
        "what was rebuilt from the store",
        an_object(
            {
                "runs": WHOLE,
                "events": WHOLE,
                "artifacts": WHOLE,
                "problems": a_list(TEXT),
                "queue_records": WHOLE,
            }
        ),
    ),
    "kinds": ("the stage kinds", an_object({"kinds": a_list(an_object(KIND))})),
    "kinds KIND": ("one stage kind", an_object(KIND)),
    "kinds KIND.KEY": ("a key of a configuration", an_object({"keys": a_list(KEY)})),
    "lineage": (
        "artifacts and what they were made from",
        an_object(
            {
                "nodes": a_list(an_object({"fingerprint": TEXT, "stage_kind": TEXT, "kind": TEXT, "bytes": WHOLE})),
                "edges": a_list(an_object({"parent": TEXT, "child": TEXT, "slot": TEXT})),
            }
        ),
    ),
    "logs": ("a line of a log, one per line", an_object({"log": TEXT, "time": or_null(TIME), "text": TEXT})),
    "path": ("the folder of a stage's files or of a run's logs", an_object({"path": TEXT})),
    "pin": (
        "the artifacts that are pinned, after the change if one was asked for",
        an_object({"pinned": a_list(an_object({"stage_kind": TEXT, "fingerprint": DIGEST}))}),
    ),
    "plan": (
        "what a recipe would run",
        an_object({"recipe": TEXT, "file": TEXT, "stages": a_list(an_object(PLANNED))}, optional={"plugins": ANY}),
    ),
    "queue": (
        "the runs in the queue, who goes next first",
        an_object({"entries": a_list(QUEUED)}),
    ),
    "submit": (
        "the run that was queued",
        an_object({"run_id": or_null(TEXT), "recipe": TEXT, "is_new": YES_NO, "stages": a_list(TEXT)}),
    ),
    "requeue": ("the run that was queued", an_object({"run_id": TEXT})),
    "recipes": ("the recipes that are known by name, with their files", an_object({"recipes": a_table(TEXT)})),
    "relocate": (
        "what has moved, and what was delivered there",
        an_object(
            {
                "moves": a_list(an_object({"kind": TEXT, "old": TEXT, "new": TEXT})),
                "addresses": WHOLE,
                "runs": WHOLE,
                "waiting": a_table(WHOLE),
            }
        ),
    ),
    "schedule add": ("the schedule that was added", an_object({"name": TEXT, "next": or_null(TIME)})),
    "schedule list": (
        "the schedules, with their next and last times",
        an_object(
            {
                "schedules": a_list(
                    an_object(
                        {
                            "name": TEXT,
                            "recipe": TEXT,
                            "trigger": TEXT,
                            "overlap": TEXT,
                            "person": TEXT,
                            "is_paused": YES_NO,
                            "next": or_null(TIME),
                            "last": or_null(TIME),
                            "last_run": or_null(TEXT),
                            "note": or_null(TEXT),
                        }
                    )
                )
            }
        ),
    ),
    "show": (
        "what came out of a run or a stage",
        an_object(
            {
                "run_id": TEXT,
                "recipe": TEXT,
                "state": RUN_STATE,
                "next": a_list(TEXT),
                "stages": a_list(
                    an_object(
                        {
                            "stage_id": TEXT,
                            "stage_kind": TEXT,
                            "state": STAGE_STATE,
                            "fingerprint": DIGEST,
                            "headline": TEXT,
                            "warnings": a_list(TEXT),
                            "metrics": a_table(ANY),
                            "folder": TEXT,
                            "bytes": WHOLE,
                            "files": a_list(FILE),
                        }
                    )
                ),
            }
        ),
    ),
    "status": ("the runs, newest first", an_object({"runs": a_list(RUN)})),
    "status RUN": ("a run and its stages", an_object({"run": RUN, "stages": a_list(STAGE)})),
    "status COST": (
        "what a run cost so far; null is unknown",
        an_object({"run_id": TEXT, "total": COSTS, "stages": a_list(an_object({"stage": TEXT, **COST_PARTS}))}),
    ),
    "takedown apply": (
        "what a takedown has changed; `deleted` is null if nothing was to be deleted yet, `old_versions` if the bucket "
        "does not say",
        an_object(
            {
                "id": TEXT,
                "retracted": an_object({"shards": WHOLE, "artifacts": WHOLE}),
                "models_marked": WHOLE,
                "deleted": or_null(an_object({"folders": WHOLE, "bytes": WHOLE})),
                "folders_left": WHOLE,
                "old_versions_kept": YES_NO,
                "old_versions": or_null(an_object({"objects": WHOLE, "bytes": WHOLE})),
            }
        ),
    ),
    "takedown list": ("the applied takedowns, oldest first", an_object({"takedowns": a_list(TAKEDOWN)})),
    "takedown plan": (
        "what a takedown would change",
        an_object({"state": ANY, "takedown": TAKEDOWN, "matches": a_table(a_list(ANY)), "reruns": a_list(ANY)}),
    ),
    "samples": (
        "what a step of a training learned from, and where each sample lies",
        an_object(
            {
                "run_id": TEXT,
                "stage": TEXT,
                "step": WHOLE,
                "samples": a_list(
                    an_object(
                        {
                            "sample_id": DIGEST,
                            "task": TEXT,
                            "source": TEXT,
                            "images": a_list(a_list(WHOLE)),
                            "dataset": DIGEST,
                            "shard": TEXT,
                            "offset": WHOLE,
                            "span_bytes": WHOLE,
                        }
                    )
                ),
            }
        ),
    ),
    "trace": ("where samples and images went", an_object({})),
    "verify": (
        "damage that was found",
        an_object({"checked": WHOLE, "problems": a_list(an_object({"stage_kind": TEXT, "fingerprint": DIGEST}))}),
    ),
}


def output_schema(name: str) -> Schema:
    """The schema of an output. `name`: a key of `OUTPUTS`."""
    text, schema = OUTPUTS[name]
    properties, required = schema["properties"], schema["required"]
    assert isinstance(properties, dict), "made by `an_object`"
    assert isinstance(required, list), "made by `an_object`"
    return {
        "$schema": DIALECT,
        "title": f"illume {name} --json",
        "description": text,
        **schema,
        "properties": {"format": {"type": "integer", "minimum": 1}, **properties},
        "required": ["format", *required],
    }
