"""The text tokenizer: the same for the same texts, loses no text, agrees with the arithmetic of the vocabulary."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from data_pipelines.tokens.text_tokenizer import (
    ChatTokenizer,
    TextTokenizerError,
    adopt_text_tokenizer,
    extend,
    train_text_tokenizer,
)
from models.mllm.vocabulary import VisionVocabulary

TEXTS = [
    f"a {colour} {shape} on a {ground} ground, number {n}\n"
    for n, (colour, shape, ground) in enumerate(
        [("red", "circle", "white"), ("blue", "square", "grey"), ("green", "star", "cream"), ("red", "cross", "mint")]
        * 5
    )
]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_text_tokenizer(TEXTS, 330)


def small_vocabulary(first_id: int) -> VisionVocabulary:
    return VisionVocabulary(first_id=first_id, semantic_codes=16, pixel_codes=32, resolutions=(64, 128))


def test_training_in_another_process_gives_the_same_file(trained: Tokenizer) -> None:
    program = (
        "import hashlib, sys; from data_pipelines.tokens.text_tokenizer import train_text_tokenizer as t;"
        "print(hashlib.sha256(t(eval(sys.stdin.read()), 330).to_str().encode()).hexdigest())"
    )
    expected = hashlib.sha256(trained.to_str().encode()).hexdigest()
    for seed, parallel in (("1", "true"), ("2", "false")):
        run = subprocess.run(
            [sys.executable, "-c", program],
            input=repr(TEXTS),
            env=os.environ | {"PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": parallel},
            cwd=Path(__file__).resolve().parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == expected


def test_the_control_tokens_come_last_in_the_order_of_qwen2(trained: Tokenizer) -> None:
    chat = ChatTokenizer(trained)
    assert trained.get_vocab_size() <= 330
    assert [chat.end_of_text_id, chat.im_start_id, chat.im_end_id] == [
        trained.get_vocab_size() - 3 + n for n in range(3)
    ]


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    import unicodedata

    chat = ChatTokenizer(train_cached())
    ids = chat.encode(text)
    assert chat.decode(ids) == unicodedata.normalize("NFC", text)
    assert all(0 <= id_ < chat.num_text_ids for id_ in ids)
    assert chat.encode_many([text, "x"]) == [ids, chat.encode("x")]


def train_cached(cache: list[Tokenizer] = []) -> Tokenizer:  # noqa: B006 -- one tokenizer for all examples
    if not cache:
        cache.append(train_text_tokenizer(TEXTS, 330))
    return cache[0]


def test_a_tokenizer_too_small_for_all_bytes_is_refused() -> None:
    with pytest.raises(TextTokenizerError, match="need at least 259"):
        train_text_tokenizer(TEXTS, 258)


def test_extended_ids_are_those_of_arithmetic(trained: Tokenizer, tmp_path: Path) -> None:
    vocabulary = small_vocabulary(trained.get_vocab_size())
    extended = extend(trained, vocabulary)
    for offset, token in enumerate(vocabulary.token_strings()):
        assert extended.token_to_id(token) == vocabulary.first_id + offset
    assert extended.get_vocab_size() == vocabulary.total
    assert extend(extended, vocabulary).to_str() == extended.to_str()
    extended.save(str(tmp_path / "tokenizer.json"))
    chat = ChatTokenizer.load(tmp_path / "tokenizer.json")
    text = "a red <start_of_image> <|im_end|>"
    assert chat.encode(text) == ChatTokenizer(trained).encode(text)
    assert chat.decode(chat.encode(text)) == text
    assert chat.decode([vocabulary.start_of_image, chat.im_end_id, *chat.encode("x")]) == "x"


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_vocabulary_that_begins_elsewhere_is_refused(trained: Tokenizer, shift: int) -> None:
    with pytest.raises(TextTokenizerError, match="make the vocabulary with first_id="):
        extend(trained, small_vocabulary(trained.get_vocab_size() + shift))


def test_other_codebooks_on_an_extended_tokenizer_are_refused(trained: Tokenizer) -> None:
    first_id = trained.get_vocab_size()
    extended = extend(trained, small_vocabulary(first_id))
    other = VisionVocabulary(first_id=first_id, semantic_codes=17, pixel_codes=32, resolutions=(64, 128))
    with pytest.raises(TextTokenizerError, match="other codebook sizes"):
        extend(extended, other)


def test_a_published_tokenizer_is_adopted_with_the_ids_of_its_vision_tokens(shared: Path) -> None:
    path = shared / "golden/tiny_tokenizer_public.json"
    vocabulary = VisionVocabulary(
        first_id=703, semantic_codes=64, pixel_codes=192, resolutions=tuple(range(64, 1025, 64))
    )
    adopted = extend(adopt_text_tokenizer(path), vocabulary)
    assert adopted.get_vocab_size() == 998
    chat = ChatTokenizer.load(path)
    assert (chat.end_of_text_id, chat.im_end_id, chat.im_start_id) == (700, 701, 702)


def test_control_tokens_are_added_to_a_tokenizer_without_them(trained: Tokenizer, tmp_path: Path) -> None:
    import json

    fields = json.loads(trained.to_str())
    fields["added_tokens"] = []
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(TextTokenizerError, match="no control token"):
        ChatTokenizer.load(path)
    assert adopt_text_tokenizer(path).get_vocab_size() == trained.get_vocab_size()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"added_tokens": 3}', '{"added_tokens": []}', '{"model": 1}'])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    for read in (adopt_text_tokenizer, ChatTokenizer.load):
        with pytest.raises(TextTokenizerError, match=r"tokenizer\.json"):
            read(path)


def test_a_tokenizer_without_bytes_is_not_adopted(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(path))
    with pytest.raises(TextTokenizerError, match="byte-level"):
        adopt_text_tokenizer(path)
    with pytest.raises(TextTokenizerError, match="no such file"):
        adopt_text_tokenizer(tmp_path / "absent.json")
