"""The whole recipe at the smallest size, as a user runs it: real Ray, real MLflow, every stage kind, one command."""

import json
import runpy
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq
import pytest
from PIL import Image
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from orchestrator import library
from stages import STAGE_KINDS
from tests.end_to_end.desk import KINDS, TINY, Desk
from tests.orchestrator.reference.test_outputs import check_output
from tests.orchestrator.sinks.test_openlineage_sink import problems
from tests.stages.training.watching.test_spike_report import REPORT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

RECIPE = str(TINY)
DATA = ["shapes", "ingested"]
MADE_FROM_CURATED = [
    "curated",
    "vision",
    "tokenizer",
    "tokenizer_scores",
    "tokens",
    "vocabulary",
    "mllm_1",
    "decoder",
    "evaluated",
    "exported",
]
TRAINED = {"train_vision", "train_tokenizer", "train_mllm", "train_decoder"}
ALL = [*DATA, *MADE_FROM_CURATED]

FIGURES = {  # of every training, on its page in MLflow
    "steps_per_s", "weight_per_s", "mfu", "memory_gib", "data_wait_s", "checkpoint_stall_s", "data_steps_skipped",
    "workers/own_step_s_median", "workers/own_step_s_slowest", "workers/slowest", "workers/data_wait_s_most",
    "workers/memory_gib_most", "system/cpu_utilization_percentage", "system/system_memory_usage_megabytes",
    "system/disk_usage_percentage",
}  # fmt: skip

LABELS = ("measure", "judge", "emit")


def copied(finished: Desk, folder: Path) -> Desk:
    """A copy of the finished run, to continue with."""
    shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
    return Desk(folder=folder, environment={"ILLUME_TRACKING": "none"})


def shards_of(events: list[Any]) -> dict[str, tuple[int, int]]:
    """For each map of the curation the number of its shards, and of those that existed already."""
    planned = [event["fields"] for event in events if event["kind"] == "shards_planned" and event["stage"] == "curated"]
    return {fields["label"]: (fields["shards"], fields["reused"]) for fields in planned}


@pytest.fixture(scope="module")
def status(finished: Desk) -> Any:
    return finished.illume("status", "tiny", "--json").data


def test_the_recipe_uses_every_kind_and_commits_every_artifact(finished: Desk, status: Any) -> None:
    assert {stage["stage_kind"] for stage in status["stages"]} == KINDS
    assert status["run"]["state"] == "SUCCEEDED"
    assert {stage["stage_id"]: stage["state"] for stage in status["stages"]} == dict.fromkeys(ALL, "COMMITTED")
    assert {stage["fingerprint"] for stage in status["stages"]} == set(finished.artifacts())


def test_every_metric_that_a_stage_returned_is_declared(finished: Desk) -> None:
    undeclared = {
        (manifest.stage_kind, name)
        for manifest in (stored.manifest for stored in finished.artifacts().values())
        for name in manifest.metrics
        if not STAGE_KINDS[manifest.stage_kind].gives_metric(name)
    }
    assert undeclared == set()


def test_what_came_out_is_shown_with_its_folder(finished: Desk) -> None:
    shown = {stage["stage_id"]: stage for stage in finished.illume("show", "tiny", "--json").data["stages"]}
    assert shown["curated"]["headline"].startswith("kept 120 of 125: 2 caption_url")
    assert shown["mllm_1"]["headline"].startswith("loss ")
    assert "objects right" in shown["evaluated"]["headline"]
    for stage_id, stage in shown.items():
        folder = Path(finished.illume("path", f"tiny:{stage_id}").out.strip())
        assert folder == Path(stage["folder"])
        assert {entry["path"] for entry in stage["files"]} == {
            str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
        }


def test_after_it_everything_is_reused(finished: Desk) -> None:
    assert finished.actions(RECIPE) == dict.fromkeys(ALL, "reuse")
    before = finished.illume("status", "--json").data
    assert "nothing to run" in finished.illume("run", RECIPE).out
    assert finished.illume("status", "--json").data == before


def test_a_changed_threshold_is_named_and_runs_exactly_what_depends_on_it(finished: Desk) -> None:
    changed = finished.plan(RECIPE, "--set", "stages.curated.config.min_side=26")
    actions = {stage_id: stage["action"] for stage_id, stage in changed.items()}
    assert actions == dict.fromkeys(DATA, "reuse") | dict.fromkeys(MADE_FROM_CURATED, "run")
    assert changed["curated"]["reasons"] == [{"type": "config", "place": "min_side", "before": "24", "after": "26"}]
    assert all(changed[name]["reasons"][0]["type"] == "upstream_reruns" for name in MADE_FROM_CURATED[1:])
    shown = finished.illume("plan", RECIPE, "--set", "stages.curated.config.min_side=26").out
    assert "config.min_side: 24 -> 26" in shown


def test_running_with_the_changed_threshold_runs_only_those_stages(finished: Desk, tmp_path: Path) -> None:
    desk = copied(finished, tmp_path)
    command = (RECIPE, "--until", "curated", "--set", "stages.curated.config.min_side=26")
    desk.illume("run", *command)
    events = desk.events()
    assert {event["stage"] for event in events if event["kind"] == "attempt_state"} == {"curated"}
    assert set(desk.actions(*command).values()) == {"reuse"}
    (measured, made_again), (judged, judged_before), _ = (shards_of(events)[label] for label in LABELS)
    assert (measured, judged_before) == (made_again, 0)  # nothing is decoded again
    assert measured == judged > 0
    kept = [
        artifact.manifest.metrics["keep"]
        for artifact in desk.artifacts().values()
        if artifact.manifest.stage_kind == "curate"
    ]
    assert len(set(kept)) == 2  # images of 24 pixels are dropped now
    assert set(desk.actions(RECIPE).values()) == {"reuse"}  # and what was made with 24 is still there


def test_a_threshold_that_changes_no_verdict_writes_nothing_again(finished: Desk, tmp_path: Path) -> None:
    desk = copied(finished, tmp_path)
    command = ("run", RECIPE, "--until", "curated", "--set", "stages.curated.config.max_aspect=5.5")
    desk.illume(*command, "--set", "stages.curated.config.min_caption_chars=3")
    found = shards_of(desk.events())
    every = found["measure"][0]
    assert found == {"measure": (every, every), "judge": (every, 0), "emit": (every, every)}
    desk.illume("run", RECIPE, "--until", "curated", "--set", "stages.curated.config.phash_distance=9")
    assert shards_of(desk.events()) == dict.fromkeys(LABELS, (every, every))  # copies are no matter of one record


def test_more_cpus_change_nothing(finished: Desk) -> None:
    moved = ["--set", "stages.tokenizer.resources.cpus=2", "--set", "stages.curated.resources.workers=1"]
    assert set(finished.actions(RECIPE, *moved).values()) == {"reuse"}


def test_the_run_tree_is_in_mlflow(finished: Desk, status: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{finished.folder / '.illume' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    run_id = status["run"]["run_id"]
    assert set(runs) == {run_id, *(f"{stage_id} 1" for stage_id in ALL)}
    parent = runs.pop(run_id)
    assert {run.info.status for run in (parent, *runs.values())} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}

    curated, trained = runs["curated 1"], runs["mllm_1 1"]
    assert curated.data.params["min_side"] == "24"
    assert curated.data.metrics["result/keep"] > 50
    inputs = {entry.tags[0].value: entry.dataset for entry in trained.inputs.dataset_inputs}
    fingerprints = {stage["stage_id"]: stage["fingerprint"] for stage in status["stages"]}
    wired = {"datasets": "curated", "tokens": "tokens", "tokenizer": "tokenizer", "vocabulary": "vocabulary"}
    assert {slot: data.digest for slot, data in inputs.items()} == {
        slot: fingerprints[stage_id][:36] for slot, stage_id in wired.items()
    }
    losses = client.get_metric_history(trained.info.run_id, "language/loss")
    assert [point.step for point in losses] == list(range(1, len(losses) + 1))
    assert len(losses) == int(trained.data.params["loop.steps"])

    for stage, name in (
        ("vision", "contrast"),
        ("tokenizer", "generator"),
        ("mllm_1", "language"),
        ("decoder", "denoising"),
    ):
        found = runs[f"{stage} 1"].data.metrics.keys()
        expected = (
            {f"{name}/{metric}" for metric in ("loss", "grad_norm", "lr")} | {f"validation/{name}/loss"} | FIGURES
        )
        assert expected <= found, (stage, expected - found)
    language = runs["mllm_1 1"].data.metrics.keys()
    assert {"padding_share", "tokens_per_s", "language/text_loss"} <= language
    assert len([name for name in language if name.startswith("language/loss_of/")]) == 2

    version = client.get_model_version_by_alias("illume-tiny", "smallest")
    assert version.run_id == runs["exported 1"].info.run_id
    assert (Path(unquote(urlsplit(version.source).path)) / "mllm").is_dir()


def test_the_lineage_file_conforms_to_the_official_schemas(finished: Desk, shared: Path) -> None:
    contents = [json.loads(file.read_text()) for file in (shared / "specs" / "openlineage").rglob("*.json")]
    schemas: Registry[Any] = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema, DRAFT202012)) for schema in contents
    )
    lines = [json.loads(line) for line in (finished.folder / ".illume" / "lineage.jsonl").read_text().splitlines()]
    assert [problem for line in lines for problem in problems(line, schemas)] == []
    ends = Counter(line["job"]["name"] for line in lines if line["eventType"] == "COMPLETE")
    assert ends == Counter(["tiny", *(f"tiny.{stage_id}" for stage_id in ALL)])


def test_lineage_leads_from_the_export_to_the_generated_shapes(finished: Desk, status: Any) -> None:
    made = finished.illume("lineage", "tiny:exported", "--direction", "up", "--json").data
    assert {node["stage_kind"] for node in made["nodes"]} == KINDS - {"score_tokenizer"}
    used = finished.illume("lineage", "tiny:tokens", "--direction", "down").out
    assert "train_mllm" in used
    assert "train_vision" not in used


def test_verify_reads_every_file(finished: Desk) -> None:
    assert finished.illume("verify", "--json").data == {"format": 1, "checked": len(ALL), "problems": []}


def test_only_checkpoints_of_finished_training_can_be_deleted(finished: Desk) -> None:
    found = finished.illume("gc", "--older-than-h", "0", "--json").data
    assert {item["reason"] for item in found["garbage"]} == {"checkpoint"}
    assert {item["key"].split("/")[1] for item in found["garbage"]} <= TRAINED
    assert found["collected"] is None
    assert finished.illume("gc", "--older-than-h", "0", "--json").data == found  # looking deletes nothing
    assert not any((finished.folder / ".illume" / "scratch").rglob("*"))


def test_a_sample_is_traced_to_its_tokens_steps_and_models(finished: Desk, tmp_path: Path) -> None:
    """The steps are computed from the order of the data; tests of the order compare them with a replay."""
    name = "generation-train-000001"
    trace = finished.illume("trace", name, "--near", "0", "--json").data
    match = trace["matches"]["curated"][0]  # copies of it that were dropped come after it
    assert (match["external_id"], match["verdict"]) == (name, "keep")
    assert [row["sample_id"] for row in trace["tokens"]["tokens"]] == [match["sample_id"]]
    steps = {exposure["stage"]: exposure["steps"] for exposure in trace["exposures"]}
    assert 5 <= len(steps["vision"]) <= 40  # 200 steps of 4 of about 100 pictures
    assert all(0 <= step < 200 for step in steps["vision"])
    assert trace["saw"] == ["vision", "tokenizer", "mllm_1", "decoder", "exported"]  # all come from the tower
    assert "models that saw it: none" in finished.illume("trace", "no-such-sample").out
    (tmp_path / "spike.json").write_text(json.dumps(REPORT | {"samples": [REPORT["samples"][0] | {"samples": [name]}]}))
    shown = finished.illume("trace", str(tmp_path), "--near", "0").out
    assert shown.startswith(REPORT["message"])
    assert "1 of 1 question answered" in shown


def test_the_audit_counts_every_line_of_the_generated_shapes(finished: Desk, tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    audit = finished.illume("audit", "tiny:curated", "--json", "--page", str(page)).data
    drawn = finished.store.glob("artifacts/generate_shapes/*/*/attempts/*/data/annotations/*.jsonl")
    assert audit["rows"] == sum(len(file.read_text().splitlines()) for file in drawn)
    assert sum(audit["verdicts"].values()) == audit["rows"]
    assert page.read_text().count("data:image/") >= 3


def test_the_index_is_rebuilt_from_the_store(finished: Desk, status: Any) -> None:
    again = ["--database", str(finished.folder / "again.db")]
    rebuilt = finished.illume("index", "rebuild", "--json", *again).data
    assert (rebuilt["runs"], rebuilt["artifacts"], rebuilt["problems"]) == (1, len(ALL), [])
    assert set(finished.actions(RECIPE, *again).values()) == {"reuse"}
    stages = finished.illume("status", "tiny", "--json", *again).data["stages"]
    assert [(stage["stage_id"], stage["state"]) for stage in stages] == [
        (stage["stage_id"], stage["state"]) for stage in status["stages"]
    ]


def test_a_notebook_needs_an_import_and_three_lines(
    finished: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example at the head of the library, with the tiny recipe, which is finished."""
    example = [line.strip() for line in str(library.__doc__).splitlines() if line.startswith("    ")]
    imported, opened, run, folder = (line for line in example if line)
    lines = [imported, opened, run.replace("quickstart", str(TINY)), f"folder = {folder}"]
    (tmp_path / "notebook.py").write_text("\n".join(lines))
    monkeypatch.chdir(finished.folder)
    names = runpy.run_path(str(tmp_path / "notebook.py"))
    names["workspace"].close()
    assert pq.read_table(names["folder"] / "ledger").num_rows > 100
    assert capsys.readouterr().out == ""


def test_the_library_traces_as_the_command_does(finished: Desk) -> None:
    name = "generation-train-000001"
    with library.Workspace.open(finished.folder / ".illume") as workspace:
        trace = workspace.trace(name, near=0)
        shown = finished.illume("trace", name, "--near", "0", "--json").data
        assert {"format": 1, **json.loads(json.dumps(trace.to_json()))} == shown
        assert workspace.trace(name, run="tiny", near=0) == trace


def test_the_finished_tokenizer_encodes_and_decodes_an_image(finished: Desk) -> None:
    image = Image.new("RGB", (96, 64), (200, 30, 30))
    with library.Workspace.open(finished.folder / ".illume") as workspace:
        tokenizer = workspace.tokenizer()
        restored = tokenizer.decode(tokenizer.encode(image))
        assert restored.size == image.size
        assert workspace.tokenizer("tiny:tokenizer").encode(image).pixel_BYX.shape == (1, 8, 12)


def test_what_commands_print_as_json_has_the_form_that_is_described(finished: Desk, tmp_path: Path) -> None:
    name = "generation-train-000001"
    for output, command in {
        "audit": ("audit", "tiny:curated", "--no-page"),
        "diff": ("diff", "last", "last"),
        "trace": ("trace", name, "--near", "0"),
        "samples": ("samples", "tiny:mllm_1", "1"),
        "takedown plan": ("takedown", "plan", name, "--near", "0", "--out", str(tmp_path / "t.json")),
        "show": ("show", "tiny"),
        "lineage": ("lineage", "tiny:exported"),
    }.items():
        check_output(output, finished.illume(*command, "--json").data)
