"""Texts about a scene: captions, questions, prompts and edit instructions; and the parser that reads captions back."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipelines.shapes.config import BACKGROUNDS, COLOURS, SHAPES, SIZES
from data_pipelines.shapes.scenes import PLACES, Edit, Figure, Scene

# Source of both templates: ILLUME+ data (published prompts); the resolution tag is filled in by the consumer.
GENERATION_PROMPT = "Generate an image of {resolution_tag}, the content of image is %s\n"
EDITING_PROMPT = "<image>\nPlease edit the image according to the instruction: %s.\n"
DESCRIBE = "Describe the image."
NUMBERS = ("no", "one", "two", "three", "four")
PLACE_PHRASES = {place: f"in the {place}" if place == "centre" else f"at the {place}" for place in PLACES}

_PLACE = "|".join(sorted(PLACES, key=len, reverse=True))
_OBJECT = re.compile(
    rf"\b(?:an?|the|one)\s+(?:(?P<size>{'|'.join(SIZES)})\s+)?(?P<colour>{'|'.join(COLOURS)})\s+"
    rf"(?P<shape>{'|'.join(SHAPES)})\b(?:\s+(?:at|in|on)\s+the\s+(?P<place>{_PLACE})\b)?"
)
_BACKGROUND = re.compile(rf"\b(?P<colour>{'|'.join(BACKGROUNDS)})\s+background\b")


@dataclass(frozen=True, kw_only=True)
class ObjectDescription:
    """An object as a text describes it; None where the text does not say."""

    shape: str
    colour: str
    size: str | None = None
    place: str | None = None


def article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _kind(figure: Figure, mentions: frozenset[str]) -> str:
    size = [figure.size] if "size" in mentions else []
    return " ".join([*size, figure.colour, figure.shape])


def _phrase(figure: Figure, mentions: frozenset[str]) -> str:
    place = f" {PLACE_PHRASES[figure.place]}" if "place" in mentions else ""
    return article(_kind(figure, mentions)) + place


def _listed(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def caption(scene: Scene, mentions: frozenset[str], rng: random.Random | None = None) -> str:
    """A caption that names all figures of the scene; with `rng` the order and the opening words vary."""
    figures = list(scene.figures)
    if rng is not None:
        rng.shuffle(figures)
    text = _listed([_phrase(figure, mentions) for figure in figures])
    if "background" in mentions:
        text += f" on {article(scene.background)} background"
    opening = rng.choice(("", "", "there is ", "the picture shows ")) if rng is not None else ""
    return opening + text


def parse_caption(text: str) -> tuple[ObjectDescription, ...] | None:
    """The objects that a text names, in its order, or None if it names none; other words are ignored."""
    found = tuple(
        ObjectDescription(shape=match["shape"], colour=match["colour"], size=match["size"], place=match["place"])
        for match in _OBJECT.finditer(" ".join(text.lower().split()))
    )
    return found or None


def parse_background(text: str) -> str | None:
    """The colour that a text gives the background."""
    match = _BACKGROUND.search(text.lower())
    return match["colour"] if match else None


def describe(scene: Scene) -> tuple[ObjectDescription, ...]:
    """The objects of the scene, as a complete and correct caption describes them."""
    return tuple(
        ObjectDescription(shape=figure.shape, colour=figure.colour, size=figure.size, place=figure.place)
        for figure in scene.figures
    )


@dataclass(frozen=True, kw_only=True)
class Question:
    kind: str  # "count", "colour", "shape", "exists", "place", "size" or "background"
    question: str
    answer: str


def questions(
    scene: Scene, mentions: frozenset[str], rng: random.Random, *, colours: tuple[str, ...] = COLOURS
) -> list[Question]:
    """A question of every kind that has one right answer in the scene.

    `rng` picks the object of each question; `colours` are those that absent objects may have.
    """
    count = len(scene.figures)
    asked = [Question(kind="count", question="How many shapes are there?", answer=NUMBERS[count])]
    shape_counts = Counter(figure.shape for figure in scene.figures)
    colour_counts = Counter(figure.colour for figure in scene.figures)
    sole_shapes = [figure for figure in scene.figures if shape_counts[figure.shape] == 1]
    sole_colours = [figure for figure in scene.figures if colour_counts[figure.colour] == 1]
    if sole_shapes:
        figure = rng.choice(sole_shapes)
        asked.append(Question(kind="colour", question=f"What colour is the {figure.shape}?", answer=figure.colour))
    if sole_colours:
        figure = rng.choice(sole_colours)
        asked.append(Question(kind="shape", question=f"Which shape is {figure.colour}?", answer=figure.shape))
    asked.append(_existence(scene, rng, colours))
    figure = rng.choice(scene.figures)
    name = f"{figure.colour} {figure.shape}"
    if "place" in mentions:
        asked.append(Question(kind="place", question=f"Where is the {name}?", answer=PLACE_PHRASES[figure.place]))
    if "size" in mentions:
        asked.append(Question(kind="size", question=f"Is the {name} small or large?", answer=figure.size))
    if "background" in mentions:
        asked.append(Question(kind="background", question="What colour is the background?", answer=scene.background))
    return asked


def more_existence_questions(
    scene: Scene, asked: Sequence[Question], rng: random.Random, *, count: int, colours: tuple[str, ...] = COLOURS
) -> list[Question]:
    """Up to `count` yes/no questions about objects that none of `asked` is about; fewer where draws repeat."""
    known = {question.question for question in asked}
    found: list[Question] = []
    for _draw in range(4 * count):
        question = _existence(scene, rng, colours)
        if len(found) < count and question.question not in known:
            known.add(question.question)
            found.append(question)
    return found


def _existence(scene: Scene, rng: random.Random, colours: tuple[str, ...]) -> Question:
    """A yes/no question: half of the time about an object of the scene, else about one whose colour is absent."""
    figure = rng.choice(scene.figures)
    present = {(other.shape, other.colour) for other in scene.figures}
    name, answer = (figure.shape, figure.colour), "yes"
    absent = [(figure.shape, colour) for colour in colours if (figure.shape, colour) not in present]
    if absent and rng.random() < 0.5:
        name, answer = rng.choice(absent), "no"
    return Question(kind="exists", question=f"Is there {article(f'{name[1]} {name[0]}')}?", answer=answer)


def instruction(edit: Edit, mentions: frozenset[str]) -> str:
    """The edit instruction, phrased as the published ones: an imperative without a full stop."""
    name = f"the {edit.subject.colour} {edit.subject.shape}"
    if edit.kind == "recolour":
        return f"change the colour of {name} to {edit.value}"
    if edit.kind == "move":
        return f"move {name} to the {edit.value}"
    if edit.kind == "remove":
        return f"remove {name}"
    return f"add {_phrase(edit.subject, mentions | {'place'})}"
