from dataclasses import replace

import pytest

from orchestrator.history import lease_owners as owners


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"pid": 2**22 + 1}, True),  # above the largest process id of Linux
        ({"started": 1}, True),  # the number was given to another process
        ({}, False),
        ({"pid": 2**22 + 1, "boot": "0000"}, False),  # another machine, or before a restart: wait for the end
        ({"pid": 2**22 + 1, "namespace": "pid:[1]"}, False),  # another container
        ({"pid": 2**22 + 1, "boot": ""}, False),
        ({"pid": 1, "started": 1}, True),
    ],
)
def test_a_process_counts_as_gone_on_proof_only(change: dict[str, object], gone: bool) -> None:
    owner = replace(owners.this_process(), **change)
    if not owners.this_process().boot:
        pytest.skip("this system does not tell the id of its start")
    assert owners.is_gone(owner.text()) is gone


@pytest.mark.parametrize("owner", ["", "somebody", "{}", '{"pid": 1}', "[1]"])
def test_an_owner_text_of_another_form_never_counts_as_gone(owner: str) -> None:
    assert not owners.is_gone(owner)
    assert owners.describe(owner) == owner
