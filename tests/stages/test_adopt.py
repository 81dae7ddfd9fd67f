"""Published weights in place of trained ones: the artifacts are those that training would have left."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from data_pipelines.inference.illume_plus import IllumePlus
from data_pipelines.tokens.vocabulary import load_vocabulary
from models.diffusion import weights as decoder_weights
from models.dualvitok import weights as tokenizer_weights
from models.mllm import weights as mllm_weights
from models.published_weights import mllm_to_published
from models.strict_weights import WeightsError
from orchestrator.errors import PrecheckError
from orchestrator.stage import Location
from stages.adopt import ADOPT_DECODER, ADOPT_MLLM, ADOPT_TOKENIZER, AdoptConfig, AdoptMllmConfig
from stages.extend_vocabulary import EXTEND_VOCABULARY, ExtendVocabularyConfig
from tests.data_pipelines.tiny_run import ANCHORS, write_run


@dataclass
class FakeArtifact:
    path: Path


@dataclass
class FakeContext:
    """As much of a stage's context as these kinds use."""

    output: Path
    artifacts: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.output.mkdir()

    def input(self, slot: str) -> FakeArtifact:
        return FakeArtifact(self.artifacts[slot])


def test_all_three_models_are_adopted_and_answer(tmp_path: Path) -> None:
    made = write_run(tmp_path / "run")
    model = mllm_weights.load(made.mllm)
    (tmp_path / "published").mkdir()
    mllm_to_published(made.mllm, tmp_path / "published")
    torch.save(tokenizer_weights.load(made.tokenizer).state_dict(), tmp_path / "dualvitok.pth")

    tokenizer = FakeContext(tmp_path / "tokenizer")
    ADOPT_TOKENIZER.run(AdoptConfig(weights=Location(str(tmp_path / "dualvitok.pth"))), tokenizer)  # type: ignore[arg-type]  # a fake
    mllm = FakeContext(tmp_path / "mllm", {"tokenizer": made.tokenizer, "vocabulary": made.vocabulary})
    settings = AdoptMllmConfig(
        weights=Location(str(tmp_path / "published")), anchors=ANCHORS, min_pixels=24 * 24, max_pixels=64 * 64
    )
    ADOPT_MLLM.run(settings, mllm)  # type: ignore[arg-type]  # a fake
    decoder = FakeContext(tmp_path / "decoder")
    ADOPT_DECODER.run(AdoptConfig(weights=Location(str(made.decoder))), decoder)  # type: ignore[arg-type]  # a fake

    adopted = mllm_weights.load(mllm.output)
    assert adopted.config == model.config
    assert all(torch.equal(value, adopted.state_dict()[name]) for name, value in model.state_dict().items())
    assert load_vocabulary(mllm.output).vision == load_vocabulary(made.mllm).vision
    assert decoder_weights.load(decoder.output).config == decoder_weights.load(made.decoder).config
    illume = IllumePlus.load(tokenizer.output, mllm.output, decoder.output, device="cpu")
    assert illume.vocabulary.vision == model.vocabulary


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    context = FakeContext(tmp_path / "out")
    with pytest.raises(WeightsError, match="this is another kind of model"):
        ADOPT_TOKENIZER.run(AdoptConfig(weights=Location(str(tmp_path / "other.pth"))), context)  # type: ignore[arg-type]  # a fake
    assert list(context.output.iterdir()) == []


def test_a_text_tokenizer_cannot_be_trained_on_nothing() -> None:
    assert EXTEND_VOCABULARY.precheck is not None
    with pytest.raises(PrecheckError, match="needs datasets"):
        EXTEND_VOCABULARY.precheck(ExtendVocabularyConfig(resolutions=(64,), text_vocabulary=300), {})
