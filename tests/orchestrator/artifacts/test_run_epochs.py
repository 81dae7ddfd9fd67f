"""Epochs are claimed once, whatever a database says, and a driver of an old one changes nothing."""

import json
import logging

import pytest

from orchestrator.artifacts.run_epochs import MAX_EPOCH, EpochGuard, RunEpochs
from orchestrator.errors import LeaseLostError
from orchestrator.store.store import Store


@pytest.fixture
def epochs(store: Store) -> RunEpochs:
    return RunEpochs(store=store, run_id="r1")


def test_an_epoch_is_claimed_by_one_driver(epochs: RunEpochs) -> None:
    assert epochs.newest() == 0  # as in a store of an older version
    epochs.claim(3, owner="process 1 on host1")
    assert epochs.newest() == 3
    with pytest.raises(LeaseLostError, match=r"epochs/000003\.json: another driver has claimed epoch 3"):
        epochs.claim(3, owner="process 2 on host2")
    epochs.claim(12, owner="process 2 on host2")
    assert epochs.newest() == 12
    assert RunEpochs(store=epochs.store, run_id="r").newest() == 0
    first, second = (json.loads(epochs.store.get(epochs.key(epoch)) or b"") for epoch in (3, 12))
    assert {**first, "nonce": ""} == {"format": 1, "epoch": 3, "owner": "process 1 on host1", "nonce": ""}
    assert len({first["nonce"], second["nonce"]}) == 2


def test_epochs_end_where_databases_store_no_larger_ones(epochs: RunEpochs) -> None:
    epochs.store.put_new(epochs.key(MAX_EPOCH + 1), b"{}")
    epochs.claim(MAX_EPOCH, owner="process 1 on host1")
    assert epochs.newest() == MAX_EPOCH


def test_a_claim_below_the_newest_is_refused(epochs: RunEpochs) -> None:
    epochs.claim(5, owner="process 1 on host1")
    with pytest.raises(LeaseLostError, match="this driver has epoch 4, but epoch 5 has taken over"):
        epochs.claim(4, owner="a driver of an older database")


def test_the_guard_refuses_once_a_newer_epoch_is_claimed(epochs: RunEpochs) -> None:
    guard = EpochGuard(epochs=epochs, epoch=1)
    guard.check()  # without claims, as in a store of an older version
    epochs.claim(1, owner="process 1 on host1")
    guard.check()
    epochs.claim(2, owner="process 2 on host2")
    with pytest.raises(LeaseLostError, match="run r1: this driver has epoch 1, but epoch 2 has taken over"):
        guard.check()


@pytest.mark.parametrize("name", ["next.json", "10000000000.json", "-1.json", "\u0663.json"])
def test_a_claim_that_is_no_epoch_is_named_once_and_ignored(
    epochs: RunEpochs, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    epochs.store.put_new(f"runs/r1/epochs/{name}", b"{}")
    epochs.claim(2, owner="process 1 on host1")
    with caplog.at_level(logging.WARNING):
        assert epochs.newest() == epochs.newest() == 2
    (line,) = {record.getMessage() for record in caplog.records if "expected the claim of an epoch" in record.message}
    assert f"runs/r1/epochs/{name}: ignored" in line
    assert len(list(epochs.store.list("runs/r1/epochs"))) == 2
