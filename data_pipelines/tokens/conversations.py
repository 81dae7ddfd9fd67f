"""Renders samples into token ids and labels: ChatML template, image tokens, trained parts, dropped conditions.

`pieces` alone decides the content and its order; ids, labels, lengths and prompts are all derived from its result.
Source: the "qwen2" template of the released code (facts 4.2 to 4.6). Where that is broken (facts 8.8, 8.9), every
`<image>` gets its own image, braces are text, and an answer may begin with newlines.
Legend: T tokens, Y X rows and columns of codes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from data_pipelines.datasets.samples import (
    IMAGE,
    RESOLUTION_TAG,
    TASKS_WITH_TARGETS,
    Role,
    Sample,
    SampleError,
    SampleImage,
    Turn,
)
from data_pipelines.images.model_input import InputSizes, grids, image_anchor, input_size
from data_pipelines.tokens.text_tokenizer import ChatTokenizer
from models.dualvitok.geometry import Size
from models.mllm.vocabulary import IGNORED_LABEL, VisionVocabulary

Ids = npt.NDArray[np.int64]
Codes = tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]  # semantic_YX, pixel_YX

RANDOM_IMAGE = f"Generate a random image of {RESOLUTION_TAG}\n"
RECONSTRUCT = f"{IMAGE}\nReconstruct the image according to the given image\n"
_PLACEHOLDERS = re.compile(f"({re.escape(IMAGE)}|{re.escape(RESOLUTION_TAG)})")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a conversation: text, fixed ids, the resolution tags of an image, an image as input or as target."""

    kind: Literal["text", "ids", "tags", "input", "target"]
    text: str = ""
    ids: tuple[int, ...] = ()
    slot: int = -1  # index of the image in the sample
    trained: bool = False


@dataclass(frozen=True, kw_only=True)
class TurnWithImages:
    """A turn, with the image slot of each of its placeholders."""

    role: Role
    text: str
    slots: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RenderedSample:
    ids: Ids  # T; an input image is a block of vision feature placeholders
    labels: Ids  # T; the id at the same index, or IGNORED_LABEL
    images: tuple[int, ...]  # slots of the inputs of the vision tower, in order of appearance


def pieces(
    sample: Sample, tokenizer: ChatTokenizer, *, drop_condition: bool = False, prompt: bool = False
) -> list[Piece]:
    """The content of a conversation, in order. `prompt` omits the last answer, except for its leading resolution tags.

    Raises: SampleError if roles do not alternate or placeholders and images do not match.
    """
    turns = turns_with_images(sample, drop_condition=drop_condition)
    contents = _contents(sample, turns)
    opening: list[Piece] = []
    if prompt and turns[-1].role == "gpt":
        turns, answer = turns[:-1], contents[-1]
        opening = [replace(piece, trained=False) for piece in answer[:1] if piece.kind == "tags"]
    found = [Piece(kind="ids", ids=tuple(tokenizer.system_ids))]
    for turn, content in zip(turns, contents, strict=False):
        is_answer = turn.role == "gpt"
        if is_answer:  # a separate piece, so that a prompt is always a prefix of what was trained
            found.append(Piece(kind="ids", ids=tuple(tokenizer.assistant_prefix_ids)))
            found += _merge_texts(content)
        else:
            found.append(Piece(kind="ids", ids=(tokenizer.im_start_id,)))
            found += _merge_texts([Piece(kind="text", text="user\n"), *content])
        found.append(Piece(kind="ids", ids=(tokenizer.im_end_id, *tokenizer.newline_ids), trained=is_answer))
    if prompt:
        found += [Piece(kind="ids", ids=tuple(tokenizer.assistant_prefix_ids)), *opening]
    return found


def turns_with_images(sample: Sample, *, drop_condition: bool = False) -> tuple[TurnWithImages, ...]:
    """The turns with their image slots; answers before the first question are omitted.

    Raises: SampleError if roles do not alternate, nothing is answered, or placeholders and images do not match.
    """
    counts = [turn.text.count(IMAGE) for turn in sample.turns]
    if sum(counts) != len(sample.images):
        raise SampleError(
            f"sample {sample.sample_id}: {sum(counts)} {IMAGE} placeholders for {len(sample.images)} images; "
            "each image needs exactly one"
        )
    slots = iter(range(len(sample.images)))
    placed = [
        TurnWithImages(role=turn.role, text=turn.text, slots=tuple(next(slots) for _ in range(count)))
        for turn, count in zip(sample.turns, counts, strict=True)
    ]
    first = next((number for number, turn in enumerate(placed) if turn.role == "human"), len(placed))
    turns = tuple(placed[first:])
    for number, turn in enumerate(turns):
        if turn.role != ("human", "gpt")[number % 2]:
            raise SampleError(
                f"sample {sample.sample_id}: turn {first + number} is by {turn.role!r} again; "
                "human and gpt must alternate"
            )
    if len(turns) < 2:
        raise SampleError(f"sample {sample.sample_id}: no question with an answer, so there is nothing to train")
    return _without_condition(sample, turns) if drop_condition else turns


def _without_condition(sample: Sample, turns: tuple[TurnWithImages, ...]) -> tuple[TurnWithImages, ...]:
    """The turns without their condition, as guidance needs them (facts 4.6).

    Generation: the first request becomes one for a random image. Editing: source and target both become the source, and
    later turns are removed, since they refer to an image that is gone. Other tasks are unchanged.
    """
    if sample.task == "generation":
        if turns[0].slots:
            raise SampleError(
                f"sample {sample.sample_id}: an image in the request of a generation sample; expected none"
            )
        return (replace(turns[0], text=RANDOM_IMAGE), *turns[1:])
    if sample.task == "editing":
        if not turns[0].slots:
            raise SampleError(f"sample {sample.sample_id}: no image in the first request of an editing sample")
        source = turns[0].slots[0]
        answer = replace(turns[1], slots=(source,) * len(turns[1].slots))
        return (replace(turns[0], text=RECONSTRUCT, slots=(source,)), answer)
    return turns


def _contents(sample: Sample, turns: Sequence[TurnWithImages]) -> list[list[Piece]]:
    """The pieces of each turn. A resolution tag refers to the next image, a second tag before it to the image after."""
    has_tags = sample.task in TASKS_WITH_TARGETS
    order = [slot for turn in turns for slot in turn.slots]
    num_used, ahead = 0, 0
    contents: list[list[Piece]] = []
    for turn in turns:
        is_answer = turn.role == "gpt"
        content: list[Piece] = []
        for text in filter(None, _PLACEHOLDERS.split(turn.text)):
            if text == IMAGE:
                slot = order[num_used]
                if has_tags or is_answer:
                    content.append(Piece(kind="tags", slot=slot, trained=is_answer))
                content.append(Piece(kind="target" if is_answer else "input", slot=slot, trained=is_answer))
                num_used, ahead = num_used + 1, 0
            elif text == RESOLUTION_TAG and has_tags and order:
                slot = order[min(num_used + ahead, len(order) - 1)]
                content.append(Piece(kind="tags", slot=slot, trained=is_answer))
                ahead += 1
            else:
                content.append(Piece(kind="text", text=text, trained=is_answer))
        contents.append(content)
    return contents


def _merge_texts(content: Sequence[Piece]) -> Iterator[Piece]:
    """The pieces with adjacent texts merged, so that they are tokenized together."""
    text: Piece | None = None
    for piece in content:
        if piece.kind == "text":
            text = replace(piece, text=text.text + piece.text) if text else piece
            continue
        if text:
            yield text
            text = None
        yield piece
    if text:
        yield text


def render(
    sample: Sample,
    *,
    tokenizer: ChatTokenizer,
    vocabulary: VisionVocabulary,
    sizes: InputSizes,
    codes: Mapping[int, Codes],
    drop_condition: bool = False,
) -> RenderedSample:
    """Ids, labels and input images of a sample. `codes` holds the codes of the target slots.

    Raises: SampleError for a sample that cannot be rendered, or codes that are missing or out of range.
    """
    found = pieces(sample, tokenizer, drop_condition=drop_condition)
    ids = [_piece_ids(sample, piece, tokenizer, vocabulary, codes, sizes) for piece in found]
    labels = [
        part if piece.trained else np.full(len(part), IGNORED_LABEL) for part, piece in zip(ids, found, strict=True)
    ]
    return RenderedSample(
        ids=np.concatenate(ids),
        labels=np.concatenate(labels),
        images=tuple(piece.slot for piece in found if piece.kind == "input"),
    )


def render_prompt(
    sample: Sample,
    *,
    tokenizer: ChatTokenizer,
    vocabulary: VisionVocabulary,
    sizes: InputSizes,
    codes: Mapping[int, Codes] | None = None,
    unconditional: bool = False,
) -> RenderedSample:
    """The conversation up to its last answer.

    It ends with the assistant prefix and, if that answer opens with an image, the resolution tags of that image.
    `unconditional` gives the prompt of the guidance branch.

    `codes` are needed only for images in earlier answers. All labels are ignored.
    """
    found = pieces(sample, tokenizer, drop_condition=unconditional, prompt=True)
    ids = np.concatenate([_piece_ids(sample, piece, tokenizer, vocabulary, codes or {}, sizes) for piece in found])
    images = tuple(piece.slot for piece in found if piece.kind == "input")
    return RenderedSample(ids=ids, labels=np.full(len(ids), IGNORED_LABEL), images=images)


def rendered_lengths(
    samples: Sequence[Sample],
    *,
    tokenizer: ChatTokenizer,
    vocabulary: VisionVocabulary,
    sizes: InputSizes,
    drop_condition: bool = False,
) -> list[int | SampleError]:
    """The number of ids that `render` gives for each sample, without codes and pixels; the error if it would fail."""
    counts: list[tuple[int, int] | SampleError] = []  # ids that are not text, number of texts
    texts: list[str] = []
    for sample in samples:
        try:
            parts = pieces(sample, tokenizer, drop_condition=drop_condition)
            fixed = sum(_fixed_length(sample, piece, vocabulary, sizes) for piece in parts)
        except SampleError as error:
            counts.append(error)
            continue
        sample_texts = [piece.text for piece in parts if piece.kind == "text"]
        counts.append((fixed, len(sample_texts)))
        texts += sample_texts
    lengths = iter([len(ids) for ids in tokenizer.encode_many(texts)])
    return [
        count if isinstance(count, SampleError) else count[0] + sum(next(lengths) for _ in range(count[1]))
        for count in counts
    ]


def rendered_length(
    sample: Sample,
    *,
    tokenizer: ChatTokenizer,
    vocabulary: VisionVocabulary,
    sizes: InputSizes,
    drop_condition: bool = False,
) -> int:
    """`rendered_lengths` of one sample. Raises: SampleError."""
    (length,) = rendered_lengths(
        [sample], tokenizer=tokenizer, vocabulary=vocabulary, sizes=sizes, drop_condition=drop_condition
    )
    if isinstance(length, SampleError):
        raise length
    return length


def target_slots(sample: Sample, *, drop_condition: bool = False) -> tuple[int, ...]:
    """The distinct slots of the images whose codes `render` needs, in order."""
    turns = turns_with_images(sample, drop_condition=drop_condition)
    return tuple(dict.fromkeys(slot for turn in turns if turn.role == "gpt" for slot in turn.slots))


def can_drop_condition(task: str) -> bool:
    """True for tasks that are trained with guidance."""
    return task in TASKS_WITH_TARGETS


def generation_request(text: str, size: Size) -> Sample:
    """A request to generate an image of `size`, worded as in the training data (facts 4.6)."""
    request = f"Generate an image of {RESOLUTION_TAG}, the content of image is {text}\n"
    return _request("generation", request, IMAGE, (SampleImage(width=size[1], height=size[0], anchor=size),))


def editing_request(text: str, size: Size) -> Sample:
    """A request to edit an image of `size` as `text` says; the result has the same size."""
    request = f"{IMAGE}\nPlease edit the image according to the instruction: {text.rstrip().removesuffix('.')}.\n"
    image = SampleImage(width=size[1], height=size[0], anchor=size)
    return _request("editing", request, IMAGE, (image, image))


def question(text: str, images: Sequence[SampleImage] = ()) -> Sample:
    """A question about images, or a plain text question without images."""
    return _request("understanding" if images else "text", f"{IMAGE}\n" * len(images) + text, "", tuple(images))


def _request(task: str, request: str, answer: str, images: tuple[SampleImage, ...]) -> Sample:
    turns = (Turn(role="human", text=request), Turn(role="gpt", text=answer))
    return Sample(sample_id="request", task=task, turns=turns, images=images)


def _piece_ids(
    sample: Sample,
    piece: Piece,
    tokenizer: ChatTokenizer,
    vocabulary: VisionVocabulary,
    codes: Mapping[int, Codes],
    sizes: InputSizes,
) -> Ids:
    if piece.kind == "ids":
        return np.array(piece.ids, dtype=np.int64)
    if piece.kind == "text":
        return np.array(tokenizer.encode(piece.text), dtype=np.int64)
    try:
        if piece.kind == "tags":
            return vocabulary.tag_ids(image_anchor(sample, piece.slot))
        if piece.kind == "input":
            return vocabulary.feature_block_ids(*grids(input_size(sample, piece.slot, sizes), sizes.pixel_factor))
        if piece.slot in codes:
            return vocabulary.block_ids(*codes[piece.slot])
    except SampleError:
        raise
    except ValueError as error:
        raise SampleError(f"sample {sample.sample_id}, image {piece.slot}: {error}") from error
    raise SampleError(
        f"sample {sample.sample_id}: no codes for image {piece.slot}, which it is trained to draw; "
        f"tokenize the images of the task {sample.task!r} too"
    )


def _fixed_length(sample: Sample, piece: Piece, vocabulary: VisionVocabulary, sizes: InputSizes) -> int:
    """Number of ids of a piece that is not text (0 for text)."""
    try:
        if piece.kind in ("input", "target"):
            size = input_size(sample, piece.slot, sizes) if piece.kind == "input" else image_anchor(sample, piece.slot)
            return vocabulary.block_length(*grids(size, sizes.pixel_factor))
        if piece.kind == "tags":
            return len(vocabulary.tag_ids(image_anchor(sample, piece.slot)))
    except SampleError:
        raise
    except ValueError as error:
        raise SampleError(f"sample {sample.sample_id}, image {piece.slot}: {error}") from error
    return len(piece.ids)
