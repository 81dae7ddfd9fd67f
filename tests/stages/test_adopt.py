"""Adopted published weights: the artifacts are those that training would have made."""

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
from orchestrator.stage import Location
from orchestrator.testing import folder_context
from stages.adopt import ADOPT_DECODER, ADOPT_MLLM, ADOPT_TOKENIZER, AdoptConfig, AdoptMllmConfig
from tests.data_pipelines.tiny_run import ANCHORS, write_run


def test_all_three_models_are_adopted_and_load(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    model = mllm_weights.load(run.mllm)
    (tmp_path / "published").mkdir()
    mllm_to_published(run.mllm, tmp_path / "published")
    torch.save(tokenizer_weights.load(run.tokenizer).state_dict(), tmp_path / "dualvitok.pth")

    tokenizer = folder_context(ADOPT_TOKENIZER, tmp_path / "tokenizer")
    ADOPT_TOKENIZER.run(AdoptConfig(weights=Location(str(tmp_path / "dualvitok.pth"))), tokenizer)
    mllm = folder_context(
        ADOPT_MLLM, tmp_path / "mllm", inputs={"tokenizer": run.tokenizer, "vocabulary": run.vocabulary}
    )
    settings = AdoptMllmConfig(
        weights=Location(str(tmp_path / "published")), anchors=ANCHORS, min_pixels=24 * 24, max_pixels=64 * 64
    )
    ADOPT_MLLM.run(settings, mllm)
    decoder = folder_context(ADOPT_DECODER, tmp_path / "decoder")
    ADOPT_DECODER.run(AdoptConfig(weights=Location(str(run.decoder))), decoder)

    adopted = mllm_weights.load(mllm.output)
    assert adopted.config == model.config
    assert all(torch.equal(value, adopted.state_dict()[name]) for name, value in model.state_dict().items())
    assert load_vocabulary(mllm.output).vision == load_vocabulary(run.mllm).vision
    assert decoder_weights.load(decoder.output).config == decoder_weights.load(run.decoder).config
    illume = IllumePlus.load(tokenizer.output, mllm.output, decoder.output, device="cpu")
    assert illume.vocabulary.vision == model.vocabulary


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    context = folder_context(ADOPT_TOKENIZER, tmp_path / "out")
    with pytest.raises(WeightsError, match="this is another kind of model"):
        ADOPT_TOKENIZER.run(AdoptConfig(weights=Location(str(tmp_path / "other.pth"))), context)
    assert list(context.output.iterdir()) == []
