"""Exported models: plain transformers loads them and gives the same results as our model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_pipelines.inference.export import export_models, export_text_model
from data_pipelines.inference.input_settings import load_input
from data_pipelines.tokens.conversations import question, render_prompt
from data_pipelines.tokens.vocabulary import load_vocabulary
from models.mllm import weights
from models.mllm.attention import attention_inputs
from models.mllm.model import UnifiedMllm
from tests.data_pipelines.tiny_run import TinyRun

METRICS = {"generation/exact": 0.25, "generation/exact/chance": 0.125}


@pytest.fixture(scope="module")
def exported(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = tmp_path_factory.mktemp("report")
    (report / "samples" / "generation-0-00000").mkdir(parents=True)
    (report / "samples" / "generation-0-00000" / "drawn.png").write_bytes(b"png")
    (report / "metrics.json").write_text(json.dumps(METRICS))
    output = tmp_path_factory.mktemp("exported")
    folders = {"tokenizer": tiny_run.tokenizer, "mllm": tiny_run.mllm, "decoder": tiny_run.decoder, "report": report}
    export_models(folders, output)
    return output


@torch.no_grad()
def our_scores(model: UnifiedMllm, ids_BT: torch.Tensor) -> torch.Tensor:
    positions_BT = torch.arange(ids_BT.shape[1]).expand_as(ids_BT)
    hidden_BTD = model.decode(model.embed(ids_BT, ()), positions_BT, attention_inputs(torch.ones_like(ids_BT)))
    rows = range(model.config.tokens.rows)
    return torch.stack([model.output_table.scores(hidden_TD, rows) for hidden_TD in hidden_BTD])


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_plain_transformers_scores_text_and_image_ids_as_our_model(
    tiny_run: TinyRun, tmp_path: Path, tied: bool
) -> None:
    config = weights.load(tiny_run.mllm).config
    torch.manual_seed(3)
    model = UnifiedMllm(replace(config, text=replace(config.text, tie_embeddings=tied))).eval()
    export_text_model(model, tiny_run.vocabulary, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids_BT = torch.randint(0, config.tokens.rows, (2, 40), generator=torch.Generator().manual_seed(1))
    # The same sums in fp32, in another order.
    torch.testing.assert_close(plain(ids_BT).logits, our_scores(model, ids_BT), rtol=1e-4, atol=1e-4)


def test_the_exported_decoder_is_that_of_the_model_beside_it(exported: Path) -> None:
    ids_BT = torch.arange(30)[None]
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(exported / "mllm_text")(ids_BT).logits
    torch.testing.assert_close(found, our_scores(weights.load(exported / "mllm"), ids_BT), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", ["a red star", "  two\n\nlines, 1234 \u00e9\u00e8 \U0001f600", "don't <image> {x}"])
def test_the_exported_tokenizer_gives_our_ids(exported: Path, text: str) -> None:
    plain = AutoTokenizer.from_pretrained(exported / "mllm_text")
    chat = load_vocabulary(exported / "mllm").text
    assert plain(text)["input_ids"] == chat.encode(text)
    assert plain.decode(chat.encode(text)) == text
    assert (plain.eos_token_id, plain.pad_token_id) == (chat.im_end_id, chat.end_of_text_id)


def test_the_chat_template_writes_the_prompt_that_the_model_was_trained_on(exported: Path) -> None:
    plain = AutoTokenizer.from_pretrained(exported / "mllm_text")
    vocabulary = load_vocabulary(exported / "mllm")
    expected = render_prompt(
        question("What is a star?"),
        tokenizer=vocabulary.text,
        vocabulary=vocabulary.vision,
        sizes=load_input(exported / "mllm").sizes,
    )
    asked = [{"role": "user", "content": "What is a star?"}]
    found = plain.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert found == expected.ids.tolist()


def test_the_exported_model_stops_where_an_answer_ends(exported: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(exported / "mllm_text")
    chat = load_vocabulary(exported / "mllm").text
    answer = plain.generate(torch.tensor([chat.system_ids]), max_new_tokens=5, do_sample=True)[0].tolist()
    assert plain.generation_config.eos_token_id == chat.im_end_id
    assert answer[: len(chat.system_ids)] == chat.system_ids


def test_the_card_lists_the_folders_and_the_metrics(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    folders = sorted(path.name for path in exported.iterdir() if path.is_dir())
    assert folders == ["decoder", "mllm", "mllm_text", "report", "tokenizer"]
    assert all(f"| {name}/ |" in card for name in folders)
    assert "| generation/exact | 0.25 |" in card


def test_the_card_omits_what_is_not_exported(tiny_run: TinyRun, tmp_path: Path) -> None:
    export_models({"tokenizer": tiny_run.tokenizer, "mllm": tiny_run.mllm}, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "decoder/" not in card
    assert "report/" not in card
    assert "figure" not in card


def test_nothing_exported_can_run_code(exported: Path) -> None:
    endings = {path.suffix for path in exported.rglob("*") if path.is_file()}
    assert endings <= {".safetensors", ".json", ".jinja", ".md"}


def test_the_images_of_single_samples_stay_behind(exported: Path) -> None:
    assert not (exported / "report" / "samples").exists()
