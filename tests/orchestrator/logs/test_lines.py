import logging

from orchestrator.logs.lines import LineFormatter, OutputFormatter, time_of_line

TOKEN = "hf_" + "aB3dE6gH9" * 4


def record(message: str, *arguments: object) -> logging.LogRecord:
    found = logging.LogRecord("curate", logging.WARNING, "file.py", 1, message, arguments, None)
    found.created = 1738311300.25
    return found


def test_each_line_of_a_message_has_its_time_with_a_zone() -> None:
    text = LineFormatter().format(record("two\nlines of %s", "text"))
    assert text.splitlines() == [
        "2025-01-31T08:15:00.250Z WARNING curate: two",
        "2025-01-31T08:15:00.250Z WARNING curate: lines of text",
    ]
    assert [time_of_line(line) for line in text.splitlines()] == [1738311300.25] * 2
    own = record("text")
    own.name = "orchestrator.execution.attempt_log"
    assert LineFormatter(with_time=False).format(own) == "WARNING attempt_log: text"
    assert LineFormatter(with_time=False).format(record("short")) == "WARNING curate: short"


def test_secrets_are_masked_also_in_tracebacks_and_arguments() -> None:
    failed = record("cannot log in as %s", TOKEN)
    try:
        raise ValueError(f"refused {TOKEN}")
    except ValueError as error:
        failed.exc_info = (type(error), error, error.__traceback__)
    text = LineFormatter().format(failed)
    assert TOKEN not in text
    assert "cannot log in as ***" in text
    assert text.splitlines()[-1].endswith("WARNING curate: ValueError: refused ***")


def test_lines_that_have_a_time_keep_it() -> None:
    line = "2024-01-01T00:00:00.000Z INFO job: at work"
    assert LineFormatter().format(record("%s", line)) == line
    assert OutputFormatter().format(line) == line


def test_output_gets_a_time_and_of_a_progress_bar_the_last_state() -> None:
    formatted = OutputFormatter().format(f"  1%\r 50%\r100% of {TOKEN}\r\n")
    assert time_of_line(formatted) is not None
    assert formatted.endswith(" INFO output: 100% of ***")
    assert OutputFormatter().format("\n") == ""
