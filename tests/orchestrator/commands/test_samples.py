"""`illume samples` as text, and what it cannot say. Its JSON: `tests/end_to_end/test_recipe.py`."""

from data_pipelines.datasets.samples import Sample, SampleImage, Turn
from orchestrator.commands.samples import sample_text
from stages.provenance.step_samples import StepSample
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume


def test_a_sample_is_a_few_lines() -> None:
    turns = (Turn(role="human", text="draw " + "very " * 100), Turn(role="gpt", text="<image>"))
    sample = Sample(
        sample_id="a" * 64, task="generation", source="web", turns=turns, images=(SampleImage(width=64, height=48),)
    )
    text = sample_text(StepSample(sample=sample, dataset=0, shard="s0", offset=0, span_bytes=9))
    assert text.splitlines()[0] == f"{'a' * 16}  generation, web; images: 64 x 48; shard s0"
    assert text.splitlines()[2] == "  gpt: <image>"
    assert max(map(len, text.splitlines())) < 220


def test_what_has_no_steps_is_told(illume: Illume) -> None:
    illume("run", "words.yaml")
    assert "expected RUN:STAGE" in illume("samples", "last", "3").err
    assert "does not say which samples" in illume("samples", "last:loud", "3").err
    assert illume("samples", "last:loud", "0").code == 2
