"""The caption of a sample: its first text about the image, without the template around it."""

from collections.abc import Sequence

from data_pipelines.captions.patterns import (
    EDITING,
    GENERATION,
)
from data_pipelines.datasets.records import IMAGE


def caption_of(task: str, turns: Sequence[tuple[str, str]]) -> str:
    """The text that says most about a sample: its caption, prompt, instruction or first answer."""
    wanted = "human" if task in ("generation", "editing") else "gpt"
    text = next((text for role, text in turns if role == wanted), "")
    return _without_template(text) if wanted == "human" else text


def _without_template(prompt: str) -> str:
    """The words that a published prompt template was filled with; the one for edits ends with a full stop."""
    text = prompt.replace(IMAGE, "")
    if EDITING.match(text):
        return EDITING.sub("", text).removesuffix("\n").removesuffix(".")
    return GENERATION.sub("", text).removesuffix("\n")
