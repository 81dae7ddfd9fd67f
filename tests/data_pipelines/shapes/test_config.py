"""A configuration from which nothing can be drawn is refused with the reason."""

import re

import pytest

from data_pipelines.shapes.config import ShapesConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exchanges": 0}, "exchanges and existence_questions must be at least 1, found 0 and 1"),
        ({"existence_questions": 0}, "exchanges and existence_questions must be at least 1, found 1 and 0"),
        ({"colours": ("red", "pink")}, "colours: found ['pink']"),
        ({"shapes": ()}, "shapes: found nothing"),
        ({"min_shapes": 3, "max_shapes": 2}, "found 3 and 2"),
        ({"image_sizes": ((64, 8),)}, "at least 24 pixels"),
    ],
)
def test_a_config_that_cannot_be_drawn_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ShapesConfig(seed=0, **change)  # type: ignore[arg-type] # a wrong value is the point
