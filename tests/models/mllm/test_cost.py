import json
from pathlib import Path

import pytest
import torch

from models.mllm.attention import attention_inputs
from models.mllm.config import MllmConfig, TextModelConfig
from models.mllm.cost import language_cost, projector_cost
from models.mllm.model import UnifiedMllm, _decoder
from tests.models.measured import measured_parameters, measured_saved_bytes

TEXT = TextModelConfig(
    hidden_size=128, intermediate_size=320, num_layers=2, num_heads=4, num_key_value_heads=2, tie_embeddings=True
)
TOKENS = 64


def test_published_models_have_their_published_sizes() -> None:
    for config, expected in (
        (MllmConfig.published_3b(), 3_370_256_384),
        (MllmConfig.published_7b(), None),
    ):
        cost = language_cost(config.text, rows=config.tokens.rows, tokens=4096)
        tables = cost.table_parameters * (1 if config.text.tie_embeddings else 2)
        layers = cost.layer.parameters * cost.num_layers + cost.final_norm.parameters
        whole = layers + tables + projector_cost(config, 81, 256).parameters
        assert whole == measured_parameters(lambda config=config: UnifiedMllm(config))
        assert expected in (None, whole)


def test_a_layer_keeps_what_autograd_saves() -> None:
    """One more layer keeps as many bytes as the arithmetic says, whatever lies around the layers."""

    def kept(layers: int) -> float:
        text = TextModelConfig(**{**vars(TEXT), "num_layers": layers})

        def call(module: torch.nn.Module, batch: int) -> object:
            return module(
                inputs_embeds=torch.zeros(batch, TOKENS, text.hidden_size, requires_grad=True),
                position_ids=torch.arange(TOKENS)[None].expand(batch, TOKENS).clone(),
                attention_mask=documents[batch],
                past_key_values=None,
                use_cache=False,
            ).last_hidden_state

        return measured_saved_bytes(lambda: _decoder(text), call)

    documents = {batch: attention_inputs(torch.ones(batch, TOKENS, dtype=torch.long)) for batch in (2, 3)}
    cost = language_cost(TEXT, rows=100, tokens=TOKENS)
    assert kept(3) - kept(2) == pytest.approx(cost.layer.saved_bytes, rel=1e-6)


def test_flops_are_those_counted_elsewhere(shared: Path) -> None:
    folder = shared / "reference" / "planner"
    models = json.loads((folder / "memory_flops_vectors.json").read_text())
    names = {"qwen2.5-3b": "qwen2.5-3b", "3b-v283k": "illume-like-3b-v283k-tied", "qwen2.5-7b": "qwen2.5-7b"}
    rows = [row for row in json.loads((folder / "flops_torch_counter.json").read_text()) if row["model"] in names]
    assert len(rows) == 6
    for row in rows:
        published = models[names[row["model"]]]["config"]
        text = TextModelConfig(
            hidden_size=published["hidden_size"],
            intermediate_size=published["intermediate_size"],
            num_layers=published["num_hidden_layers"],
            num_heads=published["num_attention_heads"],
            num_key_value_heads=published["num_key_value_heads"],
            tie_embeddings=published["tie_word_embeddings"],
        )
        cost = language_cost(text, rows=published["vocab_size"], tokens=row["seq"])
        assert cost.layer.flops * cost.num_layers + cost.head_flops == row["fwd_flops"]
