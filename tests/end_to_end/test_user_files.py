"""Files of users: broken ones are counted by reason, and a file that is added later runs only its own shards."""

import io
import json
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests.end_to_end.desk import Desk

pytestmark = pytest.mark.ray

RECIPE = """\
name: files
stages:
  pairs:
    kind: ingest
    config: {read: {source: pairs}, paths: [annotations], images: [pictures]}
    resources: {workers: 2}
  archives:
    kind: ingest
    config: {read: {source: archives, format: webdataset}, paths: [archives]}
  curated:
    kind: curate
    inputs: {records: [pairs, archives]}
    config: {anchors: [[48, 48]], min_side: 32}
"""


def picture(seed: str) -> bytes:
    """A PNG of coloured blocks, different for each seed."""
    dice = random.Random(seed)
    image = Image.new("RGB", (48, 48), tuple(dice.randrange(256) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y = dice.randrange(40), dice.randrange(40)
        box = (x, y, x + dice.randrange(4, 30), y + dice.randrange(4, 30))
        draw.rectangle(box, fill=tuple(dice.randrange(256) for _ in range(3)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def line(image: str, text: str) -> str:
    question = {"from": "human", "value": "<image>\nDescribe the image."}
    return json.dumps({"images": [image], "conversations": [question, {"from": "gpt", "value": text}]})


def write_annotations(folder: Path, name: str) -> list[str]:
    """Write six good lines and their images. Returns the lines."""
    lines = []
    for number in range(6):
        (folder / "pictures" / f"{name}{number}.png").write_bytes(picture(f"{name}{number}"))
        lines.append(line(f"{name}{number}.png", f"Coloured blocks of the series {name}, number {number}."))
    (folder / "annotations" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return lines


def write_tar(file: Path, names: Iterable[str]) -> None:
    with tarfile.open(file, "w") as archive:
        for name in names:
            for ending, data in (("png", picture(name)), ("txt", f"Blocks of the archive, {name}.".encode())):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def spoil(folder: Path) -> None:
    """Line 2 is cut off, line 3 names no file, line 4 an unreadable one, line 5 one outside; the second tar is cut."""
    annotations = folder / "annotations" / "b.jsonl"
    lines = annotations.read_text().splitlines()
    lines[1] = lines[1][:40]
    lines[2] = line("absent.png", "A picture that is not there.")
    (folder / "pictures" / "b3.png").write_bytes(picture("b3")[:100])
    lines[4] = line("../../../../etc/passwd", "A file outside the folder.")
    annotations.write_text("\n".join(lines) + "\n")
    cut = folder / "archives" / "cut.tar"
    with tarfile.open(cut) as archive:
        middle = archive.getmember("h2.png").offset_data + 50
    cut.write_bytes(cut.read_bytes()[:middle])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("files")
    for name in ("annotations", "pictures", "archives"):
        (folder / name).mkdir()
    for name in "abc":
        write_annotations(folder, name)
    write_tar(folder / "archives" / "good.tar", ["g0", "g1", "g2", "g3"])
    write_tar(folder / "archives" / "cut.tar", ["h0", "h1", "h2", "h3"])
    spoil(folder)
    (folder / "files.yaml").write_text(RECIPE)
    desk = Desk(folder=folder, environment={"ILLUME_TRACKING": "none"})
    desk.illume("run", "files.yaml")
    return desk


@pytest.fixture(scope="module")
def first(desk: Desk) -> Any:
    """The audit after the first run."""
    return desk.illume("audit", "files:curated", "--json", "--no-page").data


@pytest.fixture(scope="module")
def grown(desk: Desk, first: Any) -> list[Any]:
    """The events of a second run, after one more file of annotations was added."""
    write_annotations(desk.folder, "d")
    assert desk.actions("files.yaml") == {"pairs": "run", "archives": "reuse", "curated": "run"}
    desk.illume("run", "files.yaml")
    return desk.events("files")


def test_every_broken_record_is_counted_under_its_reason_and_the_rest_is_kept(first: Any) -> None:
    reasons = {reason: table["rows"]["drop"] for reason, table in first["tables"]["reason"].items()}
    assert reasons == {
        "broken_json": 1,
        "missing_file": 1,
        "truncated_image": 1,
        "path_traversal": 1,
        "truncated_tar_member": 1,
    }
    assert first["verdicts"]["keep"] == 12 + 2 + 4 + 2
    assert first["rows"] == sum(first["verdicts"].values()) == 25


def test_the_ledger_states_for_each_record_what_was_found_and_where(desk: Desk, first: Any) -> None:
    import pyarrow.parquet as pq

    curated = next(found for found in desk.artifacts().values() if found.manifest.stage_kind == "curate")
    folder = desk.store / "artifacts" / "curate"
    ledgers = [file for file in folder.rglob("ledger/*.parquet") if curated.commit.attempt in file.parts]
    rows = [row for file in ledgers for row in pq.read_table(file).to_pylist() if row["verdict"] == "drop"]
    told = {row["reason"]: (row["source_file"], row["source_row"], row["detail"]) for row in rows}
    assert told["broken_json"][:2] == ("b.jsonl", 1)
    assert told["missing_file"][:2] == ("b.jsonl", 2)
    assert "absent.png" in told["missing_file"][2]
    assert told["path_traversal"][:2] == ("b.jsonl", 4)
    assert told["truncated_tar_member"][0] == "cut.tar"
    assert "h2.png" in told["truncated_tar_member"][2]


def test_the_plan_names_the_added_file(desk: Desk, grown: list[Any]) -> None:
    assert desk.actions("files.yaml") == dict.fromkeys(["pairs", "archives", "curated"], "reuse")
    reasons = desk.illume("explain", "files:pairs").out
    assert "d.jsonl" in reasons


def test_only_the_shards_of_the_added_file_are_made(grown: list[Any]) -> None:
    planned = {
        (event["stage"], event["fields"]["label"]): (event["fields"]["shards"], event["fields"]["reused"])
        for event in grown
        if event["kind"] == "shards_planned"
    }
    curated = {("curated", label): (6, 5) for label in ("measure", "judge", "emit")}
    assert planned == {("pairs", "ingest"): (4, 3), **curated}


def test_existing_shards_keep_their_bytes(desk: Desk, grown: list[Any]) -> None:
    datasets = [files for (kind, _), files in desk.digests().items() if kind == "curate"]
    before, after = sorted(datasets, key=len)
    shared = {name for name in before if not name.endswith("dataset.json")}
    assert {name: after[name] for name in shared} == {name: before[name] for name in shared}
    assert {Path(name).stem for name in after.keys() - before.keys()} == {"d"}


def test_what_a_failed_curation_found_stays_open_to_audit_until_gc_or_a_takedown(
    desk: Desk, grown: list[Any], tmp_path: Path
) -> None:
    """A broken gate, then thresholds under which nothing is kept; both name what was found and where it is kept."""
    gate = ("--set", "stages.curated.gates.keep_share.at_least=0.99", "--set", "stages.curated.config.min_side=33")
    told = desk.illume("run", "files.yaml", *gate, code=1).err
    assert "gates.keep_share: found 0.83871, expected at least 0.99 (" in told
    assert "kept 26 of 31: 1 broken_json, 1 missing_file, 1 path_traversal and 2 more reasons" in told
    (kept,) = (desk.folder / ".illume" / "failed").iterdir()
    assert f"What it found is kept: illume audit {kept}" in told
    page = tmp_path / "page.html"
    audited = desk.illume("audit", str(kept), "--page", str(page), "--json").data
    assert (audited["rows"], audited["verdicts"]["keep"]) == (31, 26)
    assert "truncated_tar_member" in page.read_text().replace("<wbr>", "")
    desk.illume("gc", "--delete")
    assert kept.exists()  # for a week
    desk.illume("gc", "--delete", "--unneeded-days", "0")
    assert not kept.exists()

    told = desk.illume("run", "files.yaml", "--set", "stages.curated.config.min_side=5000", code=1).err
    assert "found 31 records and none to keep (26 x too_small, 1 x broken_json, " in told
    assert "had not started" not in told
    named = desk.illume("audit", "files:curated", "--no-page")
    assert "is not committed: shown is what its failed attempt" in named.err
    assert "too_small" in named.out
    desk.illume("takedown", "plan", "pictures/a1.png", "--id", "one", "-o", "one.json")
    desk.illume("takedown", "apply", "one.json")
    assert not list((desk.folder / ".illume" / "failed").iterdir())
