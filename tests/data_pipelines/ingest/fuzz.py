"""Fuzzes every reader of ingest, and the decoder of images: `python -m tests.data_pipelines.ingest.fuzz`.

Each case puts one odd record between sound ones, or damages the bytes of a sound file. No reader may raise, planning
and reading must open the same files, and an odd record must cost no sound one. A case depends on its reader, the seed
and its number alone, so a failure is run again by `--seed SEED --first NUMBER`.
"""

import argparse
import csv
import datetime
import decimal
import io
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_pipelines.images.facts import measure_image
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.ingest.config import FOLDER_FORMATS, IngestConfig
from tests.data_pipelines.ingest.raw_files import ingest, png, tar_bytes

SOUND = ("first", "last")
KEYS = ("image", "images", "conversations", "messages", "data", "caption", "captions", "text", "texts", "text_list",
        "image_info", "matched_text_index", "from", "role", "value", "content", "type", "image_url", "url", "bytes",
        "path", "id", "sample_id", "license", "split", "task", "meta", "annotations", "file_name", "source", "key",
        "aspect")  # fmt: skip
WORDS = ("", "a.png", "b.png", "human", "gpt", "user", "assistant", "system", "image", "text", "image_url", "<image>",
         "<image>\nWhat?", "a red circle", "../a.png", "/etc/passwd", "http://x/a.png", "data:image/png;base64,@",
         "\x00", "\ud800", "é", "e\u0301", "\u202e", "NaN", "train", "x" * 5000, "a\\b.png", "%2e%2e/a", "[",
         '{"a": 1}', "\ufeff", "=1+1", '"', ",")  # fmt: skip
NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, -(2**80), 10**400, 0.0, -0.0, 1e308, float("inf"), float("nan"), 1e-320)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0)
    chosen = parser.parse_args()
    stop, number = time.monotonic() + 60 * chosen.minutes, chosen.first
    counts = dict.fromkeys(CASES, 0)
    while time.monotonic() < stop:
        for name in CASES:
            try:
                run_case(name, chosen.seed, number)
            except Exception:  # noqa: BLE001 # whatever it is, it is what is looked for
                traceback.print_exc()
                sys.stderr.write(
                    f"{name}: case {number} of seed {chosen.seed} failed; --first {number} runs it again\n"
                )
                return 1
            counts[name] += 1
        number += 1
    sys.stdout.write(
        f"seed {chosen.seed}, no failure: " + ", ".join(f"{n} {name}" for name, n in counts.items()) + "\n"
    )
    return 0


def run_case(name: str, seed: int, number: int) -> None:
    """Raises: AssertionError if a sound record is lost; whatever a reader raises."""
    random = Random(f"{name}/{seed}/{number}")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        raw.mkdir()
        for index, image in enumerate(("a.png", "b.png")):
            (raw / image).write_bytes(png(index))
        CASES[name](raw, random)


# ---------------------------------------------------------------- odd values


def odd_value(random: Random, depth: int = 4) -> Any:
    kind = random.randrange(9 if depth else 5)
    if kind < 2:
        return random.choice(WORDS)
    if kind == 2:
        return random.choice(NUMBERS)
    if kind < 5:
        return random.choice((None, True, False, "a.png", []))
    if kind < 7:
        return [odd_value(random, depth - 1) for _ in range(random.randrange(4))]
    return {random.choice(KEYS): odd_value(random, depth - 1) for _ in range(random.randrange(5))}


def odd_record(random: Random) -> dict[str, Any]:
    """A sound record of some layout with a few odd values in places of it."""
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a circle"}]
    parts = [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}, {"role": "assistant", "content": "x"}]
    record: dict[str, Any] = random.choice(
        (
            {"image": "a.png", "caption": "a circle"},
            {"images": ["a.png"], "conversations": turns, "meta": {"x": 1}},
            {"messages": parts},
            {"text_list": ["a", "b"], "image_info": [{"image_name": "a.png", "matched_text_index": 1}]},
            {"texts": ["a", None], "images": [None, "a.png"]},
        )
    )
    record = json.loads(json.dumps(record))
    for _ in range(random.randrange(1, 4)):
        place: Any = record
        while isinstance(place, dict | list) and place and random.random() < 0.6:
            inner = random.choice(list(place.values()) if isinstance(place, dict) else place)
            if not (isinstance(inner, dict | list) and inner):
                break
            place = inner
        if isinstance(place, dict):
            place[random.choice(KEYS)] = odd_value(random)
        else:
            place[random.randrange(len(place))] = odd_value(random)
    return record


def damaged(data: bytes, random: Random) -> bytes:
    """The bytes with a few of them changed, cut out, repeated or put in."""
    for _ in range(random.randrange(1, 5)):
        start = random.randrange(len(data) + 1)
        stop = min(len(data), start + random.choice((0, 1, 1, 4, 100, 1 << 20)))
        kind = random.randrange(4)
        new = random.randbytes(stop - start) if kind == 0 else b"" if kind == 1 else data[start:stop] * 2
        if kind == 3:
            new = random.choice((b"\x00", b"\n", b'"', b"{", b"]", b"\xff\xfe", b",", b"\r", b"\x1f\x8b\x08"))
        data = data[:start] + new + data[stop:]
    return data


def kept(raw: Path, config: IngestConfig, path: Path) -> list[str]:
    """The ids of the records that are read."""
    rows = ingest(raw.parent / "out", config, [path], [raw])
    return [row["external_id"] for row in rows if row["reject"] is None]


def expect_sound(raw: Path, path: Path, **config: Any) -> None:
    found = kept(raw, IngestConfig(source="fuzz", **config), path)
    lost = set(SOUND) - set(found)
    assert not lost, f"{lost} lost beside an odd record"


# ---------------------------------------------------------------- cases


def json_lines(raw: Path, random: Random) -> None:
    sound = [{"id": name, "image": "a.png", "caption": name} for name in SOUND]
    lines = [json.dumps(value) for value in (sound[0], odd_record(random), sound[1])]
    if random.random() < 0.2:
        lines[1] = random.choice(("{", "[" * 5000, "1e999", '{"a": 1e999}', "\x00", "9" * 5000, '"' * 99, "nul", "[]"))
    (raw / "x.jsonl").write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    expect_sound(raw, raw / "x.jsonl", rows_per_shard=random.choice((0, 1, 2)))


def json_bytes(raw: Path, random: Random) -> None:
    values = [odd_record(random) for _ in range(3)]
    coco = {"images": [{"id": 1, "file_name": "a.png"}, odd_value(random)], "annotations": [odd_value(random)]}
    text = json.dumps(random.choice((values, values[0], coco, {"data": values})), indent=random.choice((None, 1)))
    data = text.encode(random.choice(("utf-8", "utf-16", "utf-32-be")))
    path = raw / "x.json"
    path.write_bytes(damaged(data, random) if random.random() < 0.7 else data)
    kept(raw, IngestConfig(source="fuzz", max_line_bytes=random.choice((50, 1 << 20))), path)


def table_column(random: Random) -> tuple[Any, Any]:
    """(type, odd value) of a column."""
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    turn = pa.struct([("role", pa.string()), ("content", pa.string()), ("from", pa.string())])
    value = {"bytes": random.choice((None, b"", b"x")), "path": random.choice((None, "", "a.png", "../x"))}
    return random.choice(
        (
            (pa.string(), random.choice(WORDS[:18])),
            (pa.large_string(), "a.png"),
            (pa.binary(), b"\xff"),
            (pa.float64(), random.choice((float("nan"), float("inf"), 1e308))),
            (pa.timestamp("us"), random.choice((2**62, -(2**62), 0))),
            (pa.timestamp("ns", tz="Mars/Olympus"), 1),
            (pa.duration("ns"), 2**62),
            (pa.date64(), datetime.date(1, 1, 1)),
            (pa.decimal128(38, 10), decimal.Decimal("1e20")),
            (pa.dictionary(pa.int8(), pa.string()), "a.png"),
            (pa.map_(pa.string(), pa.int64()), [("a", 1), ("a", 2)]),
            (pa.list_(pa.list_(pa.string())), [["a.png"], None]),
            (cell, value),
            (pa.list_(cell), [value, None]),
            (pa.list_(turn), [{"role": "user", "content": None, "from": "human"}, None]),
            (pa.null(), None),
        )
    )


def odd_table(random: Random) -> Any:
    columns = {
        "id": pa.array([SOUND[0], "odd", SOUND[1]]),
        "image": pa.array(["a.png", random.choice(WORDS[:18]), "b.png"]),
        "caption": pa.array([SOUND[0], random.choice(("", None, "x")), SOUND[1]]),
    }
    for number in range(random.randrange(5)):
        kind, value = table_column(random)
        name = random.choice((*KEYS, "taken"))
        odd = pa.array([None, value, None], kind)
        columns[name if name not in columns else f"{name}{number}"] = odd
    if random.random() < 0.3:
        columns["note"] = pa.array([b"first", b"\xff\xfe", b"last"]).view(pa.string())
    return pa.table(columns)


def parquet(raw: Path, random: Random) -> None:
    table = odd_table(random)
    pq.write_table(table, raw / "x.parquet", row_group_size=random.choice((1, 2, 10)))
    expect_sound(raw, raw / "x.parquet", rows_per_shard=random.choice((0, 1, 2)))
    (raw / "y.parquet").write_bytes(damaged((raw / "x.parquet").read_bytes(), random))
    kept(raw, IngestConfig(source="fuzz"), raw / "y.parquet")


def arrow(raw: Path, random: Random) -> None:
    table = odd_table(random)
    with (pa.ipc.new_stream if random.random() < 0.5 else pa.ipc.new_file)(raw / "x.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=random.choice((1, 2, 10)))
    expect_sound(raw, raw / "x.arrow")


def csv_rows(raw: Path, random: Random) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    extra = random.choice(KEYS)
    writer.writerow(["id", "image", "caption", f"x_{extra}"])
    writer.writerow([SOUND[0], "a.png", "one", ""])
    middle = [random.choice(WORDS) for _ in range(random.randrange(6))]
    writer.writerow([word.encode("utf-8", "replace").decode().replace("\x00", "\x01") for word in middle])
    if random.random() < 0.3:
        text.write(random.choice(('"open\n', '"x"y\n', "\x00\n", "\r\r\n", ",,,,,,,\n", "\n\n")))
    writer.writerow([SOUND[1], "b.png", "two", ""])
    data = text.getvalue().encode("utf-8")
    (raw / "x.csv").write_bytes(data)
    expect_sound(raw, raw / "x.csv")
    (raw / "y.csv").write_bytes(damaged(data, random))
    kept(raw, IngestConfig(source="fuzz", max_line_bytes=random.choice((30, 1 << 20))), raw / "y.csv")


def tars(raw: Path, random: Random) -> None:
    stems, endings = ("odd", "odd.1", "d/odd", "..", "/x", "o\\x"), ("png", "txt", "json", "depth.png", "cls", "")
    side = json.dumps(odd_record(random)).encode("utf-8", "replace")
    odd = {
        f"{random.choice(stems)}.{random.choice(endings)}": random.choice((b"", b"x", png(3), side, b"\xff"))
        for _ in range(random.randrange(6))
    }
    sound = {f"{name}.{ending}": data for name in SOUND for ending, data in (("png", png(1)), ("txt", b"words"))}
    members = {**dict(list(sound.items())[:2]), **odd, **dict(list(sound.items())[2:])}
    data = tar_bytes(members)
    (raw / "x.tar").write_bytes(data)
    expect_sound(raw, raw / "x.tar", image=random.choice(("", "png")))
    (raw / "y.tar").write_bytes(damaged(data, random))
    kept(raw, IngestConfig(source="fuzz"), raw / "y.tar")


def folders(raw: Path, random: Random) -> None:
    for ending in random.sample(("txt", "caption", "json", "text", "tags"), random.randrange(4)):
        value = random.choice((b"", b"\xff", b"words", json.dumps(odd_record(random)).encode("utf-8", "replace")))
        (raw / f"a.{ending}").write_bytes(value)
    (raw / "b.txt").write_text("words")
    config = IngestConfig(
        source="fuzz", format=random.choice(FOLDER_FORMATS), caption=random.choice(("", "txt;json.text"))
    )
    assert "b.png" in kept(raw, config, raw)


def images(raw: Path, random: Random) -> None:
    mode = random.choice(("RGB", "L", "RGBA", "P", "1"))
    image = Image.frombytes("RGB", (16, 16), random.randbytes(768)).convert(mode)
    buffer = io.BytesIO()
    form = random.choice(("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000"))
    (image.convert("RGB") if form in ("JPEG", "JPEG2000", "WEBP") else image).save(buffer, form)
    measure_image(damaged(buffer.getvalue(), random), DecodeLimits(max_pixels=1 << 20))


CASES: dict[str, Callable[[Path, Random], None]] = {
    function.__name__: function
    for function in (json_lines, json_bytes, parquet, arrow, csv_rows, tars, folders, images)
}

if __name__ == "__main__":
    sys.exit(main())
