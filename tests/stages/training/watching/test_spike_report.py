"""The folder of a spike, as `illume trace` reads and shows it."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.shared.questions import make_questions
from orchestrator.errors import RecipeError
from stages.training.watching.spike_report import has_spike_report, read_spike_report, spike_text

REPORT: dict[str, Any] = {
    "format": 1,
    "message": "step 24, pass language: a spike: loss 9.1 (z 31.0), gradient norm 12 (z 4.0)",
    "learning_rates": [2e-5],
    "gradient_norms": {"model.language.layers.0": 3.0, "model.embedding": 11.5},
    "samples": [
        {
            "worker": 3,
            "micro_batch": 11,
            "samples": [f"{'a' * 64} (images {'b' * 64})"],
            "losses": {"text": 21.5, "pixel": 4.0},
            "source": "1 generation",
        },
        {"worker": 0, "micro_batch": 0, "samples": ["row-7"], "losses": {}, "source": ""},
    ],
}


def written(folder: Path, **changed: object) -> Path:
    (folder / "spike.json").write_text(json.dumps(REPORT | changed))
    return folder


def test_what_happened_is_shown_with_the_worst_first(tmp_path: Path) -> None:
    (written(tmp_path) / "aaaa-0.jpg").touch()
    text = spike_text(read_spike_report(tmp_path))
    assert text.startswith(str(REPORT["message"]))
    assert text.index("model.embedding: 11.5") < text.index("layers.0: 3")
    assert "    aaaaaaaaaaaaaaaa: text 21.5, pixel 4, from 1 generation; worker 3, micro-batch 11" in text
    assert "    row-7: nothing trained; worker 0, micro-batch 0" in text
    assert text.endswith(f"files in {tmp_path}: aaaa-0.jpg")


def test_its_samples_are_questions_to_a_run(tmp_path: Path) -> None:
    questions = make_questions((str(written(tmp_path)),), (), 10)
    assert questions.digests == {"a" * 64}
    assert questions.names == {"row-7"}


@pytest.mark.parametrize("changed", [{"format": 2}, {"samples": 3}, {"gradient_norms": None}])
def test_a_report_of_another_version_or_a_damaged_one_is_refused(changed: dict[str, object], tmp_path: Path) -> None:
    assert has_spike_report(written(tmp_path, **changed))
    with pytest.raises(RecipeError, match=r"spike\.json: "):
        read_spike_report(tmp_path)
