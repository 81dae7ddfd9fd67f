"""Licences are recognised in any spelling of their SPDX names, and never guessed."""

import pytest

from data_pipelines.publishing.licences import known_licence


@pytest.mark.parametrize(
    ("stated", "spdx", "hub"),
    [
        ("CC-BY-SA-2.0", "CC-BY-SA-2.0", "other"),
        ("cc_by 4.0", "CC-BY-4.0", "cc-by-4.0"),
        ("CC0", "CC0-1.0", "cc0-1.0"),
        ("ODbL-1.0", "ODbL-1.0", "odbl"),
        ("mit", "MIT", "mit"),
        ("Kodak: released for unrestricted usage", None, "other"),
        ("CC-BY", None, "other"),  # no version stated
    ],
)
def test_licences_are_recognised_and_not_guessed(stated: str, spdx: str | None, hub: str) -> None:
    found = known_licence(stated)
    assert (found.spdx, found.hugging_face) == (spdx, hub)


def test_a_licence_has_its_address_if_it_is_known() -> None:
    assert known_licence("cc by 4.0").address == "https://spdx.org/licenses/CC-BY-4.0.html"
    assert known_licence("Ask Ann").address is None
