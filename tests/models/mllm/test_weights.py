"""Folders and published names: exact both ways, refused when wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from models.mllm.batch import PackedBatch
from models.mllm.config import MllmConfig
from models.mllm.model import UnifiedMllm
from models.mllm.weights import adopt_text_model, empty_model, from_published, load, save, to_published
from models.strict_weights import WeightsError, load_strictly
from tests.models.mllm.conftest import TEXT_IDS, make_config


@pytest.mark.parametrize("build", [MllmConfig.published_3b, MllmConfig.published_7b])
def test_every_tensor_of_the_published_models_has_a_published_name(build: Callable[[], MllmConfig]) -> None:
    model = empty_model(build(), with_vision=True)
    back = from_published(to_published(model.state_dict()), model.config, where="published names")
    assert {key: value.shape for key, value in back.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }


def test_a_folder_gives_back_the_same_model(model: UnifiedMllm, tmp_path: Path) -> None:
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert loaded.config == model.config
    ids = torch.arange(12).view(1, 12)
    batch = PackedBatch(ids_BT=ids, labels_BT=ids, positions_BT=ids, segments_BT=torch.ones_like(ids))
    torch.testing.assert_close(loaded(batch).loss_sum, model(batch).loss_sum, rtol=0, atol=0)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_model_without_vision_branch_is_saved_and_loaded_as_such(tmp_path: Path) -> None:
    save(UnifiedMllm(make_config()), tmp_path)
    assert load(tmp_path).vision is None


def test_conversion_to_published_names_and_back_is_exact(model: UnifiedMllm) -> None:
    published = to_published(model.state_dict())
    back = from_published(published, model.config, where="test")
    expected = model.state_dict()
    assert back.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in back.items())


def test_two_different_tables_for_a_tied_model_are_refused() -> None:
    config = make_config(tie_embeddings=True)
    published = to_published(UnifiedMllm(config).state_dict())
    published["lm_head.weight"] = published["lm_head.weight"] + 1
    with pytest.raises(WeightsError, match="load it with a configuration that has separate tables"):
        from_published(published, config, where="file")


def test_unknown_missing_and_misshaped_names_are_listed_and_nothing_is_loaded(model: UnifiedMllm) -> None:
    published = to_published(model.state_dict())
    published["model.extra.weight"] = torch.zeros(1)
    published["model.norm.weight"] = torch.zeros(3)
    del published["model.mm_projector.projector_1.0.bias"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_strictly(model, from_published(published, model.config, where="file"), where="file")
    for part in ("projector.semantic.0.bias", "model.extra.weight", r"language.norm.weight [3] instead of [32]"):
        assert part in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("tied", [False, True])
def test_a_text_model_of_transformers_keeps_its_scores(tied: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    text = make_config().text
    theirs = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=TEXT_IDS + 6,  # the last rows are unused, as in Qwen2.5
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_hidden_layers=text.num_layers,
            num_attention_heads=text.num_heads,
            num_key_value_heads=text.num_key_value_heads,
            rope_parameters={"rope_type": "default", "rope_theta": text.rope_theta},
            tie_word_embeddings=tied,
        )
    )
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = UnifiedMllm(make_config(tie_embeddings=tied))
    image_rows = model.embedding.vision.clone()
    adopt_text_model(model, tmp_path)
    ids = torch.randint(0, TEXT_IDS, (1, 9))
    hidden = model.language(inputs_embeds=model.embed(ids, ())).last_hidden_state
    scores = model.output_table.scores(hidden[0], range(TEXT_IDS))
    torch.testing.assert_close(scores, theirs(ids).logits[0, :, :TEXT_IDS], rtol=1e-5, atol=1e-6)
    assert torch.equal(model.embedding.vision, image_rows)


def test_a_text_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": torch.zeros(10, 32)}, tmp_path / "model.safetensors")
    model = UnifiedMllm(make_config())
    with pytest.raises(WeightsError, match="has 10 rows, expected at least 50 text tokens"):
        adopt_text_model(model, tmp_path)
    save_file({"model.embed_tokens.weight": torch.zeros(50, 32)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="missing"):
        adopt_text_model(model, tmp_path)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected the configuration next to the weights"):
        load(tmp_path)
    model = UnifiedMllm(make_config())
    save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["embedding.vision"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"missing: 1\n    embedding \(1\): embedding.vision"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load(tmp_path)


def test_a_changed_size_is_told_apart_from_an_incomplete_file(tmp_path: Path) -> None:
    model = UnifiedMllm(make_config())
    save(model, tmp_path)
    smaller = replace(model.config, tokens=replace(model.config.tokens, rows=112))
    (tmp_path / "config.json").write_text(smaller.to_json())
    with pytest.raises(WeightsError, match="load with the configuration that these weights were made with"):
        load(tmp_path)
