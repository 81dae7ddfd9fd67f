"""What is printed, also in parts and in lines, has no secrets; the streams stay what they were."""

import io
import os
import sys

import click
import pytest

from orchestrator.redaction.streams import LineMasker, MaskedStream, is_output_closed, masked_terminal

TOKEN = "hf_" + "aB3dE6gH9" * 4


def test_nothing_reaches_the_terminal_with_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with masked_terminal():
        click.echo(f"one {TOKEN}")
        click.secho(f"two {TOKEN}", err=True)
        click.echo(f"bytes {TOKEN}".encode())
        sys.stdout.writelines(["three ", TOKEN, "\n"])
        sys.stderr.write(f"four postgresql://me:hunter2@db/x {TOKEN}\n")
    shown = capsys.readouterr()
    assert shown.out == "one ***\nbytes ***\nthree ***\n"
    assert shown.err == "two ***\nfour postgresql://me:***@db/x ***\n"


def test_a_terminal_that_speaks_ascii_only_is_masked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="replace", write_through=True))
    with masked_terminal():
        click.echo(f"text {TOKEN}")
    assert raw.getvalue() == b"text ***\n"


def test_output_that_nothing_reads_is_dropped_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with masked_terminal():
            assert not is_output_closed()
            for _ in range(3):
                click.echo("line\n" * 10_000)
            assert is_output_closed()


def test_a_masked_stream_has_no_way_around_it() -> None:
    assert not hasattr(MaskedStream(io.StringIO()), "buffer")


def test_a_private_key_is_masked_although_it_comes_line_by_line() -> None:
    masker = LineMasker()
    lines = ["before", "-----BEGIN PRIVATE KEY-----", "MIIabc", "-----END PRIVATE KEY----- after", f"x {TOKEN}"]
    assert [masker.mask(line) for line in lines] == ["before", "***", "***", "*** after", "x ***"]
