"""The text tokenizer: training or adopting one, adding the vision tokens, encoding and decoding plain text.

Text is never encoded as a control or vision token, even if a caption spells one out: those ids come from arithmetic.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from models.errors import DataError
from models.mllm.vocabulary import VisionVocabulary

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL_TOKENS = (END_OF_TEXT, IM_START, IM_END)  # in the order of Qwen2's ids 151643 to 151645
SYSTEM_TEXT = "system\nYou are a helpful assistant."

# Source: the pre-tokenizer of Qwen2 (tokenizer.json of Qwen2 and Qwen2.5).
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NUM_BYTES = 256


class TextTokenizerError(DataError):
    """A tokenizer file or a vocabulary cannot be used; the message says why."""


def train_text_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE with at most `vocab_size` ids, control tokens included; deterministic for the same texts.

    Every byte has an id, so any text can be encoded. There are fewer ids if the texts hold fewer pairs to merge.
    """
    if vocab_size < NUM_BYTES + len(CONTROL_TOKENS):
        raise TextTokenizerError(
            f"vocab_size: {vocab_size} is too small; {NUM_BYTES} bytes and {len(CONTROL_TOKENS)} control tokens "
            f"need at least {NUM_BYTES + len(CONTROL_TOKENS)}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS])
    return tokenizer


def adopt_text_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, with the ChatML control tokens added if it lacks them.

    Raises: TextTokenizerError if the file is not a byte-level tokenizer.
    """
    tokenizer = _parse(path, path.read_text(encoding="utf-8") if path.is_file() else None)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    missing = [symbol for symbol in alphabet if tokenizer.token_to_id(symbol) is None]
    if missing:
        raise TextTokenizerError(
            f"{path}: {len(missing)} of {NUM_BYTES} bytes have no token; a byte-level tokenizer (as Qwen2's) is needed"
        )
    absent = [token for token in CONTROL_TOKENS if tokenizer.token_to_id(token) is None]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in absent])
    return tokenizer


def extend(tokenizer: Tokenizer, vocabulary: VisionVocabulary) -> Tokenizer:
    """A copy of `tokenizer` with the vision tokens added, under the ids that `vocabulary` computes.

    Extending again changes nothing.

    Raises: TextTokenizerError if the ids would not agree.
    """
    tokens = list(vocabulary.token_strings())
    size, first = tokenizer.get_vocab_size(), vocabulary.first_id
    extended = Tokenizer.from_str(tokenizer.to_str())
    known = tokenizer.token_to_id(tokens[0])
    if known is None and size != first:
        raise TextTokenizerError(
            f"the vision tokens must begin at id {first}, but the text tokenizer has {size} ids; "
            f"make the vocabulary with first_id={size}"
        )
    if known is None:
        extended.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    for offset in (0, len(tokens) // 2, len(tokens) - 1):
        token, expected = tokens[offset], first + offset
        if (found := extended.token_to_id(token)) != expected:
            raise TextTokenizerError(
                f"{token} has id {found} in the tokenizer but {expected} in the vocabulary; "
                "the tokenizer was extended with other codebook sizes or resolutions"
            )
    return extended


class ChatTokenizer:
    """Encodes and decodes plain text, and holds the ids of the ChatML control tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._open(json.loads(tokenizer.to_str()), "tokenizer")

    @classmethod
    def load(cls, path: Path) -> "ChatTokenizer":
        """Read a `tokenizer.json`; its added tokens (131,111 in the published one) are parsed but not loaded."""
        if not path.is_file():
            raise TextTokenizerError(f"{path}: no such file; expected the tokenizer.json of a vocabulary")
        chat = cls.__new__(cls)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TextTokenizerError(f"{path}: not JSON ({error}); expected a tokenizer.json") from error
        chat._open(fields, str(path))
        return chat

    def _open(self, fields: Any, where: str) -> None:
        if not isinstance(fields, dict) or not isinstance(fields.get("added_tokens"), list):
            raise TextTokenizerError(f"{where}: not a tokenizer.json (no list of added tokens)")
        ids = {
            str(token.get("content")): token["id"]
            for token in fields["added_tokens"]
            if isinstance(token, dict) and isinstance(token.get("id"), int)
        }
        if missing := [token for token in CONTROL_TOKENS if token not in ids]:
            raise TextTokenizerError(f"{where}: no control token {', '.join(missing)}; expected a ChatML tokenizer")
        self.end_of_text_id, self.im_start_id, self.im_end_id = (ids[token] for token in CONTROL_TOKENS)
        self._plain = _parse(where, json.dumps(fields | {"added_tokens": []}))
        self._plain.no_truncation()
        self._plain.no_padding()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that affects the ids of text."""
        control = [self.end_of_text_id, self.im_start_id, self.im_end_id]
        return hashlib.sha256(f"{control}\n{self._plain.to_str()}".encode()).hexdigest()

    @property
    def num_text_ids(self) -> int:
        """Exclusive upper bound of the ids of plain text."""
        return int(self._plain.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for each text, several times faster."""
        return [encoding.ids for encoding in self._plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; omits control and vision tokens, broken UTF-8 becomes U+FFFD."""
        limit = self.num_text_ids
        return str(self._plain.decode([int(id_) for id_ in ids if 0 <= id_ < limit]))

    @cached_property
    def newline_ids(self) -> list[int]:
        return self.encode("\n")

    @cached_property
    def system_ids(self) -> list[int]:
        """The system turn that every conversation begins with."""
        return [self.im_start_id, *self.encode(SYSTEM_TEXT), self.im_end_id, *self.newline_ids]

    @cached_property
    def assistant_prefix_ids(self) -> list[int]:
        return [self.im_start_id, *self.encode("assistant\n")]


def _parse(where: Path | str, text: str | None) -> Tokenizer:
    if text is None:
        raise TextTokenizerError(f"{where}: no such file; expected a tokenizer.json")
    try:
        return Tokenizer.from_str(text)
    except Exception as error:
        raise TextTokenizerError(f"{where}: not a tokenizer that can be read ({error})") from error
