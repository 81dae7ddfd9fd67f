"""A vocabulary as a folder: made, adopted, read back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from data_pipelines.tokens.text_tokenizer import TextTokenizerError, train_text_tokenizer
from data_pipelines.tokens.vocabulary import build_vocabulary, load_vocabulary
from models.json_config import ConfigError
from tests.data_pipelines.conftest import MakeDataset, Wanted
from tests.data_pipelines.tiny_run import TOKENIZER, TinyRun

RESOLUTIONS = (24, 32, 48)


def test_a_trained_vocabulary_reads_back_as_it_was_made(tiny_run: TinyRun) -> None:
    found = load_vocabulary(tiny_run.vocabulary)
    text = "a red circle \U0001f534\n"
    assert found.text.decode(found.text.encode(text)) == text
    assert found.vision.first_id == found.text.im_end_id + 1  # right behind the control tokens
    assert found.vision.semantic_codes == TOKENIZER.semantic.codebook_size
    assert found.vision.pixel_codes == TOKENIZER.pixel.codebook_size
    assert found.vision.resolutions == RESOLUTIONS


def test_the_file_knows_every_image_token_under_the_computed_id(tiny_run: TinyRun) -> None:
    vision = load_vocabulary(tiny_run.vocabulary).vision
    plain = Tokenizer.from_file(str(tiny_run.vocabulary / "tokenizer.json"))
    tokens = list(vision.token_strings())
    assert [plain.token_to_id(token) for token in tokens] == list(range(vision.first_id, vision.total))
    assert plain.get_vocab_size() == vision.total


def test_no_id_is_spent_on_the_placeholders_of_images_and_sizes(tiny_run: TinyRun, make_dataset: MakeDataset) -> None:
    """They are never encoded as text: an image or a tag replaces them."""
    asked = Wanted(
        task="generation", turns=("Generate an image of {resolution_tag}, of stars\n", "<image>"), anchors=((64, 64),)
    )
    made = make_dataset([asked] * 20)
    output = made.dataset.parent / "vocabulary"
    output.mkdir()
    train(tiny_run, [made.dataset], output, text_vocabulary=400)
    learned = Tokenizer.from_file(str(output / "tokenizer.json")).get_vocab(with_added_tokens=False)
    assert any("stars" in token for token in learned)
    assert not [token for token in learned if "resolution" in token or "<image" in token or "mage>" in token]


def test_only_what_is_trained_on_decides_the_text_tokens(tiny_run: TinyRun, make_dataset: MakeDataset) -> None:
    samples = [Wanted(task="text", turns=("Say something", "zebra zebra zebra"), split="val")] * 5
    made = make_dataset([*samples, Wanted(task="text", turns=("Say something", "a horse"))])
    output = made.dataset.parent / "vocabulary"
    output.mkdir()
    train(tiny_run, [made.dataset], output, text_vocabulary=400)
    learned = Tokenizer.from_file(str(output / "tokenizer.json")).get_vocab(with_added_tokens=False)
    assert not [token for token in learned if "zeb" in token]


def train(run: TinyRun, datasets: list[Path], output: Path, *, text_vocabulary: int) -> None:
    build_vocabulary(
        datasets,
        run.tokenizer,
        output,
        resolutions=RESOLUTIONS,
        text_vocabulary=text_vocabulary,
        first_id=0,
        text_tokenizer=None,
    )


@pytest.mark.parametrize("stated", [True, False])
def test_an_adopted_tokenizer_keeps_its_ids(tiny_run: TinyRun, tmp_path: Path, stated: bool) -> None:
    adopted = train_text_tokenizer(["a red circle on a white ground"] * 3, 280)
    size = adopted.get_vocab_size()
    file = tmp_path / "tokenizer.json"
    adopted.save(str(file))
    output = tmp_path / "vocabulary"
    output.mkdir()
    adopt(tiny_run, file, output, first_id=size if stated else 0)
    found = load_vocabulary(output)
    assert found.text.encode("a red circle") == adopted.encode("a red circle").ids
    assert found.vision.first_id == size


def test_image_tokens_that_would_leave_a_gap_are_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    adopted = train_text_tokenizer(["a red circle"], 262)
    file = tmp_path / "tokenizer.json"
    adopted.save(str(file))
    size = adopted.get_vocab_size()
    with pytest.raises(TextTokenizerError, match=rf"begin at id 500, but the text tokenizer has {size} ids"):
        adopt(tiny_run, file, tmp_path, first_id=500)


def adopt(run: TinyRun, file: Path, output: Path, *, first_id: int) -> None:
    build_vocabulary(
        [run.dataset],
        run.tokenizer,
        output,
        resolutions=RESOLUTIONS,
        text_vocabulary=0,
        first_id=first_id,
        text_tokenizer=file,
    )


def test_a_vocabulary_of_another_format_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    folder = tmp_path / "vocabulary"
    shutil.copytree(tiny_run.vocabulary, folder)
    path = folder / "vocabulary.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"format": 2}))
    with pytest.raises(ConfigError, match=r"vocabulary\.json: format 2, expected 1; make the vocabulary again"):
        load_vocabulary(folder)
    path.write_text(json.dumps(fields | {"levels": 3}))
    with pytest.raises(ConfigError, match="levels"):
        load_vocabulary(folder)


def test_image_blocks_are_written_in_ids_of_the_file(tiny_run: TinyRun) -> None:
    vision = load_vocabulary(tiny_run.vocabulary).vision
    plain = Tokenizer.from_file(str(tiny_run.vocabulary / "tokenizer.json"))
    semantic, pixel = np.array([[3]]), np.arange(4).reshape(2, 2)
    written = plain.decode(vision.block_ids(semantic, pixel).tolist(), skip_special_tokens=False)
    assert plain.encode(written).ids == vision.block_ids(semantic, pixel).tolist()
