"""A takedown from the question to the receipt, as a user does it, on the finished tiny recipe."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from mlflow import MlflowClient

from tests.end_to_end.desk import TINY, Desk

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

RECIPE = str(TINY)
NAME = "text-train-000001"  # text only: the models that learn from images provably never saw it
AGAIN = ["ingested", "curated", "tokenizer_scores", "vocabulary", "mllm_1", "evaluated", "exported"]
STEPS = 12  # of a training whose checkpoints are all kept
CLEARED = ["vision", "tokenizer", "tokens", "decoder"]


@pytest.fixture(scope="module")
def desk(finished: Desk, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("takedown")
    shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
    return Desk(folder=folder)


@pytest.fixture(scope="module")
def words(desk: Desk) -> bytes:
    """The text of the sample, as encoded in JSON."""
    for path in desk.store.glob("artifacts/ingest/*/*/attempts/*/data/records/text_train*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row["external_id"] == NAME:
                return str(json.loads(row["conversations"])[0]["text"]).encode()
    raise AssertionError(f"no record {NAME}")


def holders(desk: Desk, words: bytes) -> list[str]:
    """Files of the store with this text, except those of the generated shapes, which are the source."""
    return [str(path.relative_to(desk.store)) for path in _files(desk.store) if words in _content(path)]


def _files(store: Path) -> Iterator[Path]:
    for path in store.rglob("*"):
        if path.is_file() and "generate_shapes" not in path.parts:
            yield path


def _content(path: Path) -> bytes:
    if path.suffix == ".parquet":
        return json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False).encode()
    return path.read_bytes()


def test_from_the_question_to_the_receipt(desk: Desk, words: bytes, tmp_path: Path) -> None:
    assert holders(desk, words)
    desk.illume("pin", "tiny:curated")

    plan = desk.illume("takedown", "plan", NAME, "--near", "0", "--id", "T1", "--note", "request 17", "--json").data
    assert plan["unanswered"] == []
    (rerun,) = plan["reruns"]
    assert rerun["stages"] == AGAIN
    assert [artifact["stage_id"] for artifact in plan["takedown"]["tainted"] if artifact["is_kept"]] == [
        "vocabulary",
        "mllm_1",
        "exported",
    ]
    assert plan["takedown"]["outside"] == [f"shapes: text_train-00000.jsonl, row 1, {NAME}"]
    assert set(desk.actions(RECIPE).values()) == {"reuse"}  # drawing it up changed nothing

    desk.illume("takedown", "apply", "T1.takedown.json")
    plan = desk.plan(RECIPE)
    assert [name for name, stage in plan.items() if stage["action"] == "run"] == AGAIN
    assert plan["ingested"]["reasons"][0] == {"type": "tainted", "takedown": "T1"}
    assert all(plan[name]["action"] == "reuse" for name in CLEARED)
    assert "was already applied" in desk.illume("takedown", "plan", NAME, "--id", "T1", code=2).err
    open_ = desk.illume("takedown", "receipt", "T1", code=1)
    assert "folders are not deleted" in open_.err
    assert "recipe 'tiny' was not run again" in open_.err

    client = MlflowClient(f"sqlite:///{desk.folder}/.illume/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    marked = client.search_runs([experiment.experiment_id], "tags.`illume.tainted_by` = 'T1'")
    assert {run.data.tags["illume.stage"] for run in marked} == {"vocabulary", "mllm_1", "exported"}
    (version,) = client.search_model_versions("name = 'illume-tiny'")
    assert version.tags["illume.tainted_by"] == "T1"

    desk.illume("gc", "--delete")
    assert holders(desk, words) == []
    desk.illume("run", RECIPE)
    assert set(desk.actions(RECIPE).values()) == {"reuse"}
    assert holders(desk, words) == []

    key = Ed25519PrivateKey.generate()
    pem, receipt = tmp_path / "key.pem", tmp_path / "receipt.json"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    desk.illume("takedown", "receipt", "T1", "--key", str(pem), "-o", str(receipt))
    envelope = json.loads(receipt.read_text())
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    key.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), encoded)
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicate"]["complete"]
    manifests = {artifact.manifest_sha256 for artifact in desk.artifacts().values()}
    assert {subject["digest"]["sha256"] for subject in statement["subject"]} <= manifests


def seen_by_vision(answer: Any) -> dict[str, list[int]]:
    """Of a trace, by sample the steps of the training `vision` that consumed it."""
    return {found["sample_id"]: found["steps"] for found in answer["exposures"] if found["stage"] == "vision"}


def test_a_training_is_paid_for_from_its_newest_clean_checkpoint_on(desk: Desk) -> None:
    """After the one before, whose data are here; of some images the one that was first seen last is taken down."""
    recipe = yaml.safe_load(TINY.read_text())
    stages = {name: recipe["stages"][name] for name in ("shapes", "ingested", "curated", "vision")}
    stages["vision"]["config"]["loop"]["steps"] = STEPS
    stages["vision"] |= {"execution": {"keep_checkpoints": STEPS}, "retry": {"checkpoint_every": 1}}
    (desk.folder / "seeing.yaml").write_text(yaml.safe_dump({"name": "seeing", "stages": stages}))
    desk.illume("run", "seeing.yaml")
    names = [f"generation-train-{number:06d}" for number in range(20)]
    before = seen_by_vision(desk.illume("trace", *names, "--near", "0", "--json").data)
    sample = max(before, key=lambda name: before[name][0])
    step, old = before[sample][0], desk.plan("seeing.yaml")["vision"]["fingerprint"]
    assert step > 0, "some are seen after the first step"

    plan = desk.illume("takedown", "plan", sample, "--near", "0", "--id", "T2", "--json").data
    assert {entry["fingerprint"]: entry["step"] for entry in plan["takedown"]["restarts"]}[old] == step
    desk.illume("takedown", "apply", "T2.takedown.json", "--delete")
    desk.illume("gc", "--delete", "--older-than-h", "0")  # it keeps the checkpoint to begin with
    planned = desk.plan("seeing.yaml")["vision"]
    assert {"type": "continues", "step": step, "fingerprint": old} in planned["reasons"]
    desk.illume("run", "seeing.yaml")
    (folder,) = desk.store.glob(f"artifacts/train_vision/*/{planned['fingerprint']}/checkpoints")
    assert sorted(int(path.name) for path in folder.iterdir()) == list(range(step, STEPS + 1)), (
        "the steps that were paid"
    )
    assert (
        f"continues from its clean checkpoint of step {step}: {old[:12]}"
        in desk.illume("lineage", planned["fingerprint"][:12]).out
    )

    after = seen_by_vision(desk.illume("trace", sample, *before, "--near", "0", "--json").data)
    assert sample not in after
    for name in before.keys() - {sample}:  # until then it is what the other training consumed, whose data are gone
        found = [found for found in after.get(name, ()) if found < step]
        assert found == [found for found in before[name] if found < step]
