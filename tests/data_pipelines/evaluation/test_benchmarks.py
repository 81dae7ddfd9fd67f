"""Benchmark prompts become images in the layout of the scoring tools; missing data give one clear line."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.evaluation.benchmarks import BenchmarkError, DrawSettings, Format, draw_items, read_items
from data_pipelines.inference.illume_plus import IllumePlus
from models.mllm.config import LevelSampling, SamplingConfig
from tests.data_pipelines.tiny_run import TinyRun

PLAIN = LevelSampling()
SETTINGS = DrawSettings(
    size=(32, 32), sampling=SamplingConfig(text=PLAIN, semantic=PLAIN, pixel=PLAIN), images_per_prompt=2
)


@pytest.fixture(scope="module")
def model(tiny_run: TinyRun) -> IllumePlus:
    return IllumePlus.load(tiny_run.tokenizer, tiny_run.mllm)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def geneval(folder: Path) -> Path:
    lines = [{"tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": f"a dog {n}"} for n in range(2)]
    (folder / "evaluation_metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "evaluation_metadata.jsonl"


def mjhq(folder: Path) -> Path:
    entries = {"9f3a": {"category": "animals", "prompt": "a dog"}, "77b1": {"category": "food", "prompt": "a pie"}}
    (folder / "meta_data.json").write_text(json.dumps(entries))
    return folder / "meta_data.json"


def emu_edit(folder: Path) -> Path:
    rows = [
        {
            "idx": n,
            "instruction": f"make it {colour}",
            "image": {"bytes": png(n), "path": None},
            "input_caption": "a star",
            "output_caption": f"a {colour} star",
            "task": "color",
        }
        for n, colour in enumerate(("red", "blue"))
    ]
    (folder / "emu").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "emu" / "test-00000.parquet")
    return folder / "emu"


def prompts(folder: Path) -> Path:
    (folder / "prompts.txt").write_text("a red star\n\na blue circle\n")
    return folder / "prompts.txt"


EXPECTED: dict[Format, tuple[Callable[[Path], Path], set[str]]] = {
    "geneval": (
        geneval,
        {f"0000{n}/{name}" for n in range(2) for name in ("metadata.jsonl", "samples/0000.png", "samples/0001.png")},
    ),
    "mjhq": (mjhq, {"animals/9f3a.png", "food/77b1.png"}),
    "emu_edit": (
        emu_edit,
        {
            f"{part}/{n}.{kind}"
            for part, kind in (("source", "png"), ("edited", "png"), ("captions", "json"))
            for n in range(2)
        },
    ),
    "prompts": (prompts, {"00000-0.png", "00000-1.png", "00002-0.png", "00002-1.png"}),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_images_have_the_layout_of_the_scoring_tool(kind: Format, model: IllumePlus, tmp_path: Path) -> None:
    make, files = EXPECTED[kind]
    items = read_items(kind, make(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    made = draw_items(model, kind, items, SETTINGS, out)
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == files
    assert made == len([name for name in files if name.endswith(".png") and not name.startswith("source/")])


def test_geneval_gets_its_own_line_back_and_edits_their_own_size(model: IllumePlus, tmp_path: Path) -> None:
    data = geneval(tmp_path)
    draw_items(model, "geneval", read_items("geneval", data)[:1], SETTINGS, tmp_path)
    line = json.loads((tmp_path / "00000" / "metadata.jsonl").read_text())
    assert line == json.loads(data.read_text().splitlines()[0])
    draw_items(model, "emu_edit", read_items("emu_edit", emu_edit(tmp_path))[:1], SETTINGS, tmp_path)
    with Image.open(tmp_path / "edited" / "0.png") as edited:
        assert edited.size == (40, 20)


def test_an_image_does_not_depend_on_other_prompts(model: IllumePlus, tmp_path: Path) -> None:
    items = read_items("prompts", prompts(tmp_path))
    for name, chosen in (("both", items), ("one", items[1:])):
        (tmp_path / name).mkdir()
        draw_items(model, "prompts", chosen, SETTINGS, tmp_path / name)
    images = [(tmp_path / name / "00002-1.png").read_bytes() for name in ("both", "one")]
    assert images[0] == images[1]
    assert images[0] != (tmp_path / "both" / "00002-0.png").read_bytes()


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("geneval", "none.jsonl", None, r"none\.jsonl cannot be read .*; download the benchmark's data"),
        ("geneval", "a.jsonl", "{", "is not as geneval has it"),
        ("geneval", "a.jsonl", '{"tag": "x"}', "KeyError"),
        ("geneval", "a.jsonl", "\n", "holds no prompts"),
        ("mjhq", "a.json", '{"../../x": {"category": "a", "prompt": "b"}}', "leaves the folder"),
        ("mjhq", "a.json", "[]", "is not as mjhq has it"),
        ("emu_edit", "a.parquet", "PAR1 not really", "cannot be read"),
        ("prompts", "a.txt", b"\xff\xfe", "cannot be read"),
    ],
)
def test_data_that_cannot_be_used_give_one_line(
    kind: Format, name: str, content: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BenchmarkError, match=message) as caught:
        read_items(kind, path)
    assert "\n" not in str(caught.value)


def test_two_prompts_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = emu_edit(tmp_path)
    (folder / "test-00001.parquet").write_bytes((folder / "test-00000.parquet").read_bytes())
    with pytest.raises(BenchmarkError, match="two prompts named '0'"):
        read_items("emu_edit", folder)
