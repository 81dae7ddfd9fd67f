"""Generates batches of answers of interleaved text and images.

Every row has its own grammar state, length, random numbers and, inside images, its own unconditional companion row for
guidance. The answer of a row does not depend on the other rows of its batch (up to rounding). Tokens without a choice
are appended without sampling.
Letters: B rows, T tokens of one pass, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.dualvitok.model import Codes
from models.mllm.attention import attention_inputs, cache_mask
from models.mllm.cache import RowCache
from models.mllm.config import SamplingConfig
from models.mllm.grammar import PromptError, RowState, Rules
from models.mllm.model import UnifiedMllm
from models.mllm.sampling import apply_guidance, draw, mask_scores, scored_range, select_candidates
from models.mllm.vision import ImageFeatures, read_images
from models.mllm.vocabulary import Grid, Ids, VisionVocabulary

_MAX_TOKENS_PER_PASS = 4  # the last code of a level, its end of line and two level markers
_SLOT_STEP = 64  # the number of visible slots is rounded up to this, so that attention has few different sizes


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Ids [T] with feature placeholders, and the images (or their features) that fill them.

    `unconditional` is the prompt without its condition, for guidance. The resolution (height, width) in pixels of an
    image to generate comes from here, from tags in the ids, or from tags that the model writes. `seed` is combined with
    the seed of the request.
    """

    ids: Ids
    images: Sequence[Tensor] = ()
    features: Sequence[ImageFeatures] | None = None
    unconditional: "Prompt | None" = None
    resolution: Grid | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Generation:
    """An answer: all its ids, and its parts in order: runs of text ids (without tags and end token) and images."""

    ids: Ids
    parts: tuple[Ids | Codes, ...]

    @property
    def text_ids(self) -> Ids:
        texts = [part for part in self.parts if not isinstance(part, Codes)]
        return np.concatenate(texts) if texts else np.zeros(0, dtype=np.int64)

    @property
    def images(self) -> list[Codes]:
        """Codes of each image, with a batch of one."""
        return [part for part in self.parts if isinstance(part, Codes)]


class Generator:
    """Answers prompts with a model. `rules` hold the vocabulary, the grids of the tokenizer and the end token."""

    def __init__(self, model: UnifiedMllm, rules: Rules) -> None:
        if rules.vocabulary != model.vocabulary:
            raise ValueError(f"vocabulary: {rules.vocabulary}, but the model was built for {model.vocabulary}")
        self._model = model
        self._rules = rules

    def generate(self, prompts: Sequence[Prompt], config: SamplingConfig) -> list[Generation]:
        """One answer per prompt, in the order of the prompts.

        Raises: PromptError for a prompt that cannot be answered as requested, before anything is computed.
        """
        rows = [_Row(prompt, config, self._rules) for prompt in prompts]
        if not rows:
            return []
        training = self._model.training
        self._model.eval()
        try:
            with torch.inference_mode():
                _Session(self._model, rows, config).run()
        finally:
            self._model.train(training)
        return [_to_generation(row.state, self._rules) for row in rows]


class _Row:
    """A prompt, its grammar state, and the computed length of its conditional and its unconditional sequence."""

    def __init__(self, prompt: Prompt, config: SamplingConfig, rules: Rules) -> None:
        self.prompt = prompt
        self.state = RowState(
            rules=rules,
            tokens_left=config.max_new_tokens,
            images_left=config.max_images,
            force_image=config.force_image,
            stop_after_image=config.stop_after_image,
            resolution=prompt.resolution,
        )
        self.state.begin(prompt.ids)
        if config.guidance != 1 and config.max_images and prompt.unconditional is None:
            raise PromptError(
                "prompt.unconditional: guidance needs the prompt without its condition; or set guidance to 1"
            )
        seed = np.random.SeedSequence([config.seed, prompt.seed]).generate_state(1, np.uint64)[0]
        self.random = torch.Generator().manual_seed(int(seed >> 1))
        self.length = 0
        self.unguided_length = 0  # 0: the row has no companion now

    def unguided_ids(self) -> Ids:
        """The unconditional prompt with the image's own tags, and the image so far, without the rest of the answer."""
        assert self.prompt.unconditional is not None, "checked at the start"
        vocabulary = self.state.rules.vocabulary
        answer = np.array(self.state.generated, dtype=np.int64)
        start = self.state.image_start
        before = np.concatenate([self.prompt.ids, answer[:start]])
        base = self.prompt.unconditional.ids
        if _ends_with_tags(before, vocabulary):
            base = np.concatenate([base[:-2] if _ends_with_tags(base, vocabulary) else base, before[-2:]])
        return np.concatenate([base, answer[start:]])


class _Session:
    """The generation of one batch. Companion rows follow the conditional rows in the cache: row B + i is row i's."""

    def __init__(self, model: UnifiedMllm, rows: Sequence[_Row], config: SamplingConfig) -> None:
        self.model, self.rows, self.config = model, rows, config
        self.device, self.dtype = model.embedding.text.device, model.embedding.text.dtype
        self.has_guidance = config.guidance != 1 and config.max_images > 0
        longest = max(len(row.prompt.ids) for row in rows)
        if self.has_guidance:
            longest = max(longest, *(2 + len(row.prompt.unconditional.ids) for row in rows if row.prompt.unconditional))
        self.slots = longest + config.max_new_tokens + _MAX_TOKENS_PER_PASS
        count = len(rows) * (2 if self.has_guidance else 1)
        self.cache = RowCache(model.config.text, rows=count, slots=self.slots, dtype=self.dtype, device=self.device)
        self.hidden_BD = torch.zeros(len(rows), model.config.text.hidden_size, dtype=self.dtype, device=self.device)
        self.unguided_BD = torch.zeros_like(self.hidden_BD)

    def run(self) -> None:
        """Generate until every row is finished."""
        sequences = []
        for row in self.rows:
            forced = row.state.forced()
            sequences.append(np.concatenate([row.prompt.ids, np.array(forced, dtype=np.int64)]))
            row.length = len(sequences[-1])
        prompts = [row.prompt for row in self.rows]
        self.hidden_BD[:] = self._prefill(range(len(self.rows)), sequences, prompts)
        while active := [index for index, row in enumerate(self.rows) if not row.state.finished]:
            self._update_companions()
            added: list[list[int]] = [[] for _ in self.rows]
            for index, token in zip(active, self._draw(active), strict=True):
                state = self.rows[index].state
                state.accept(token)
                added[index] = [token, *state.forced()]
            if not all(row.state.finished for row in self.rows):
                self._decode(added)

    def _update_companions(self) -> None:
        """Add companions to rows that have entered an image, and remove those of rows whose image ended."""
        if not self.has_guidance:
            return
        for row in self.rows:
            if not row.state.in_image:
                row.unguided_length = 0
        new = [i for i, row in enumerate(self.rows) if row.state.in_image and not row.unguided_length]
        if not new:
            return
        sequences = [self.rows[index].unguided_ids() for index in new]
        prompts = [prompt for index in new if (prompt := self.rows[index].prompt.unconditional) is not None]
        hidden = self._prefill([len(self.rows) + index for index in new], sequences, prompts)
        self.unguided_BD[torch.tensor(new, device=self.device)] = hidden
        for index, sequence in zip(new, sequences, strict=True):
            self.rows[index].unguided_length = len(sequence)

    def _draw(self, active: Sequence[int]) -> list[int]:
        """The next token of each active row."""
        states = [self.rows[index].state for index in active]
        allowed = [state.allowed() for state in states]
        ids, table = scored_range(allowed), self.model.output_table
        chosen_B = torch.tensor(active, device=self.device)
        scores_BV = table.scores(self.hidden_BD[chosen_B], ids).float()
        inside = [self.rows[index].unguided_length > 0 for index in active]
        if any(inside):
            unguided_BV = table.scores(self.unguided_BD[chosen_B], ids).float()
            mixed_BV = apply_guidance(scores_BV, unguided_BV, self.config.guidance)
            scores_BV = torch.where(torch.tensor(inside, device=self.device)[:, None], mixed_BV, scores_BV)
        scores_BV = mask_scores(scores_BV, allowed, ids)
        if self.config.greedy:
            return [ids.start + offset for offset in scores_BV.argmax(dim=1).tolist()]
        levels = {"text": self.config.text, "semantic": self.config.semantic, "pixel": self.config.pixel}
        uniform_B = torch.stack([torch.rand((), generator=self.rows[index].random) for index in active])
        found = select_candidates(scores_BV, [levels[state.kind] for state in states])
        return [ids.start + offset for offset in draw(found, uniform_B.to(self.device)).tolist()]

    def _prefill(self, cache_rows: Sequence[int], sequences: Sequence[Ids], prompts: Sequence[Prompt]) -> Tensor:
        """Start rows of the cache with whole sequences. Returns the hidden state [B,D] after the last token of each."""
        ids_BT, counts_B = self._pad(sequences)
        positions_BT = torch.arange(ids_BT.shape[1], device=self.device).expand_as(ids_BT)
        features = [image for prompt in prompts for image in self._features(prompt)]
        self.cache.prefill(torch.tensor(list(cache_rows), device=self.device))
        hidden_BTD = self.model.decode(
            self.model.embed(ids_BT, features),
            positions_BT,
            attention_inputs((positions_BT < counts_B[:, None]).long()),
            self.cache,
        )
        return hidden_BTD[torch.arange(len(hidden_BTD), device=self.device), counts_B - 1]

    def _decode(self, added: Sequence[Sequence[int]]) -> None:
        """Add the new tokens of each row to it, and to its companion if that has the tokens before."""
        pieces = [np.array(tokens, dtype=np.int64) for tokens in added]
        lengths = [row.length for row in self.rows]
        companions = any(row.unguided_length and row.state.in_image for row in self.rows)
        if companions:
            pieces += pieces
            lengths += [row.unguided_length for row in self.rows]
        ids_BT, counts_B = self._pad(pieces)
        starts_B1 = torch.tensor(lengths, device=self.device)[:, None]
        positions_BT = starts_B1 + torch.arange(ids_BT.shape[1], device=self.device)
        visible = min(self.slots, -(-(max(lengths) + ids_BT.shape[1]) // _SLOT_STEP) * _SLOT_STEP)
        self.cache.decode(positions_BT, visible)
        hidden_BTD = self.model.decode(
            self.model.embed(ids_BT, ()),
            positions_BT,
            {"full_attention": cache_mask(positions_BT, visible)},
            self.cache,
        )
        last_BD = hidden_BTD[torch.arange(len(hidden_BTD), device=self.device), (counts_B - 1).clamp(min=0)]
        self.hidden_BD = last_BD[: len(self.rows)]
        if companions:
            self.unguided_BD = last_BD[len(self.rows) :]
        for row, tokens in zip(self.rows, added, strict=True):
            row.length += len(tokens)
            row.unguided_length += len(tokens) if row.unguided_length else 0

    def _pad(self, sequences: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        """Ids [B,T] padded on the right, and the number of ids in each row."""
        counts = [len(sequence) for sequence in sequences]
        ids_BT = np.zeros((len(sequences), max(counts)), dtype=np.int64)
        for row, sequence in zip(ids_BT, sequences, strict=True):
            row[: len(sequence)] = sequence
        return torch.from_numpy(ids_BT).to(self.device), torch.tensor(counts, device=self.device)

    def _features(self, prompt: Prompt) -> Sequence[ImageFeatures]:
        if prompt.features is not None or not prompt.images:
            return prompt.features or ()
        if self.model.vision is None:
            raise PromptError("prompt.images: this model has no vision branch; pass features, or build it with one")
        return read_images(self.model.vision, [image.to(self.device) for image in prompt.images])


def _ends_with_tags(ids: Ids, vocabulary: VisionVocabulary) -> bool:
    return len(ids) > 1 and ids[-2] in vocabulary.height_range and ids[-1] in vocabulary.width_range


def _to_generation(state: RowState, rules: Rules) -> Generation:
    """Split an answer into text and images."""
    ids = np.array(state.generated, dtype=np.int64)
    parts: list[Ids | Codes] = []
    at = 0
    for begin, end, _ in [*state.spans, (len(ids), len(ids), None)]:
        text = ids[at:begin]
        text = text[(text < rules.vocabulary.first_id) & (text != rules.end_id)]
        if len(text):
            parts.append(text)
        if end > begin:
            semantic_YX, pixel_YX = rules.vocabulary.parse_block(ids[begin:end])
            parts.append(
                Codes(semantic_BYX=torch.from_numpy(semantic_YX)[None], pixel_BYX=torch.from_numpy(pixel_YX)[None])
            )
        at = end
    return Generation(ids=ids, parts=tuple(parts))
