"""Where a dataset comes from, as its page says: who made it, when, with which code and which thresholds.

Given by whoever knows the store; of a bare folder none of it is known, and the page says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A setting that decided about records."""

    stage: str
    name: str  # dotted path in the configuration, or `gates.<metric>`
    value: str
    is_default: bool = False


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Facts for the head of the page, in order, and every threshold in force."""

    facts: Sequence[tuple[str, str]] = ()
    thresholds: Sequence[Threshold] = ()
    # Images of evaluation sets that records were compared with; 0: no set was given; None: not known.
    evaluation_images: int | None = None
    evaluation_unread: int = 0  # samples with an image that could not be compared

    @property
    def contamination(self) -> str:
        """What a page without a contaminated record may say about evaluation sets."""
        if self.evaluation_images is None:
            return (
                "Not known: this folder does not say whether an evaluation set was given. No record is marked as "
                "contaminated."
            )
        if not self.evaluation_images:
            return "Not checked: no evaluation set was given, so no record was compared with one."
        unread = f" {self.evaluation_unread:,} samples have an image that could not be compared."
        return (
            f"None: no record shares an image with the {self.evaluation_images:,} images of the evaluation sets."
            f"{unread if self.evaluation_unread else ''}"
        )
