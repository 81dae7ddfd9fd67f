"""No byte that a run writes holds a secret: store, database, tracker, logs, terminal, whatever the secret came through.

The secrets are in a configuration, a path, the environment, what a stage and its Ray workers print, log and raise, and
in the reasons of quarantined items. They are planted by a stage that is a file of the user.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.desk import Desk

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SEED = "aB3dE6gH9"
SECRETS = {
    "github": f"ghp_{SEED * 4}",  # known by their form
    "openai": f"sk-proj-{SEED * 4}",
    "slack": f"xoxb-1234567890-{SEED}",
    "jwt": f"eyJ{SEED}xyz.eyJ{SEED}xyz.{SEED * 2}",
    "password": "hunter2-in-address",  # known by what is before them
    "signed": "signature-of-a-url",
    "named": "value-of-api-key",
    "key": "MIIBVQIBADANBgkqhkiG9w0BAQEFAASCAT",
    "wandb": "0123456789abcdef" * 2 + "01234567",  # known as a value of the environment
}
PLUGIN = '''\
"""Says secrets in every way."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.shards import Quarantined, Shard, ShardInput, ShardOutcome
from orchestrator.stage import Slot, StageContext, StageKind

SECRETS = {secrets!r}
SAYING = (
    f"{{SECRETS['github']}} {{SECRETS['openai']}} {{SECRETS['slack']}} {{SECRETS['jwt']}} {{SECRETS['wandb']}} "
    f"postgresql://me:{{SECRETS['password']}}@db/x https://h/x?X-Amz-Signature={{SECRETS['signed']}}&a=1 "
    f"api_key={{SECRETS['named']}}"
)
KEY = f"-----BEGIN PRIVATE KEY-----\\n{{SECRETS['key']}}\\n-----END PRIVATE KEY-----"


@dataclass(frozen=True, kw_only=True)
class LeakConfig:
    api_key: str
    url: str
    fails: bool = False


@dataclass(frozen=True, kw_only=True)
class Leaker:
    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        def run(shard: ShardInput) -> ShardOutcome:
            say("worker")
            if 3 in shard.items and len(shard.items) > 0:
                raise ValueError(f"cannot read item: {{SAYING}}")
            (shard.output / "out.txt").write_text("data")
            found = tuple(Quarantined(item=item, reason=f"refused {{SAYING}}") for item in shard.items if item == 7)
            return ShardOutcome(rows=len(shard.items) - len(found), quarantined=found)

        return run


def say(who: str) -> None:
    print(who, SAYING)
    print(KEY)
    sys.stderr.write(f"{{who}} {{SAYING}}\\n")
    logging.getLogger(who).warning("%s", SAYING)
    logging.getLogger(who).info("%s", KEY)
    if who == "worker":
        subprocess.run(["sh", "-c", 'echo "$0"', SAYING], check=True)


def leak(config: LeakConfig, context: StageContext) -> Mapping[str, float]:
    assert config.api_key == SECRETS["named"], "the stage itself is given its secret"
    say("stage")
    context.tracker.log_event("note", {{"message": SAYING, "api_key": SECRETS["named"], "lines": [KEY]}})
    shards = [Shard(name=str(start), items=tuple(range(start, start + 50))) for start in (0, 50)]
    context.map_shards(Leaker(), shards, label="leak", identity={{"api_key": config.api_key}})
    if config.fails:
        raise RuntimeError(f"cannot go on: {{SAYING}} {{KEY}}") from OSError(SAYING)
    (context.output / "done.txt").write_text("data")
    return {{"rows": 1.0}}


LEAK = StageKind(name="leak", version=1, config=LeakConfig, run=leak, output="leaks@1")
'''
RECIPE = """\
name: leaky
stages:
  quiet:
    kind: leak
    config: {{api_key: {named}, url: "https://h/x?X-Amz-Signature={signed}"}}
    retry: {{max_quarantined_share: 0.5}}
  loud:
    kind: leak
    config: {{api_key: {named}, url: "postgresql://me:{password}@db/x", fails: true}}
    retry: {{max_quarantined_share: 0.5, attempts: 1}}
"""


def leaks_in_files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            yield from (
                f"{name} in {path.relative_to(folder)}" for name, secret in SECRETS.items() if secret.encode() in data
            )


def test_no_byte_that_a_run_writes_holds_a_secret(tmp_path: Path) -> None:
    desk = Desk(folder=tmp_path, environment={"WANDB_API_KEY": SECRETS["wandb"]})
    inputs = {"leaky.yaml": RECIPE.format(**SECRETS), "leaks.py": PLUGIN.format(secrets=SECRETS)}
    for name, text in inputs.items():
        (tmp_path / name).write_text(text)
    plugin = ("--plugin", "./leaks.py:LEAK")
    printed = [desk.illume("-v", "run", "leaky.yaml", *plugin, code=1)]
    printed.append(desk.illume("run", "leaky.yaml", *plugin, "--json", code=1))
    printed.append(desk.illume("resume", *plugin, code=2))  # no plan keeps secrets
    for command in (("status", "last"), ("logs",), ("events",), ("show", "last"), ("explain",), ("events", "--json")):
        printed.append(desk.illume(*command, *(plugin if command[0] in ("show", "explain") else ())))
    for name in inputs:
        (tmp_path / name).unlink()
    leaked = [name for answer in printed for name, secret in SECRETS.items() if secret in answer.out + answer.err]
    assert leaked == []
    assert list(leaks_in_files(tmp_path)) == []
    logs = printed[4].out
    for said in ("output: stage ***", "output: worker ***", "WARNING worker: ***", "cannot read item: ***"):
        assert said in logs
    with sqlite3.connect(tmp_path / ".illume" / "mlflow.db") as tracker:
        assert tracker.execute("select count(*) from params where key = 'api_key' and value = '***'").fetchone()[0] > 0
