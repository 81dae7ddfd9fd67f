"""Extracts the caption of a sample: its first text about the image, without the template around it."""

from collections.abc import Sequence

from data_pipelines.captions.patterns import EDITING, GENERATION
from data_pipelines.datasets.records import IMAGE


def extract_caption(task: str, turns: Sequence[tuple[str, str]]) -> str:
    """The most descriptive text of a sample: its caption, prompt, instruction or first answer."""
    author = "human" if task in ("generation", "editing") else "gpt"
    text = next((text for role, text in turns if role == author), "")
    return strip_template(text) if author == "human" else text


def strip_template(prompt: str) -> str:
    """The text that a published prompt template was filled with; the template for edits ends with a full stop."""
    text = prompt.replace(IMAGE, "")
    if EDITING.match(text):
        return EDITING.sub("", text).removesuffix("\n").removesuffix(".")
    return GENERATION.sub("", text).removesuffix("\n")
