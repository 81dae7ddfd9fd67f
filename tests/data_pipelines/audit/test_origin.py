"""What a page says about evaluation sets."""

import pytest

from data_pipelines.audit.origin import Origin


@pytest.mark.parametrize(
    ("images", "unread", "beginning"),
    [
        (None, 0, "Not known: this folder does not say whether"),
        (0, 0, "Not checked: no evaluation set was given"),
        (1200, 3, "None: no record shares an image with the 1,200 images of the evaluation sets. 3 samples"),
        (1200, 0, "None: no record shares an image with the 1,200 images of the evaluation sets."),
    ],
)
def test_none_is_said_only_where_a_set_was_given(images: int | None, unread: int, beginning: str) -> None:
    assert Origin(evaluation_images=images, evaluation_unread=unread).contamination.startswith(beginning)
