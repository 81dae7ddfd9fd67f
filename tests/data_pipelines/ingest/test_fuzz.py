"""A short run of the fuzzer of all readers; `make fuzz` goes on for ten minutes."""

import pytest

from tests.data_pipelines.ingest.fuzz import CASES, run_case

NUM_CASES = 25
SEED = 17


@pytest.mark.parametrize("name", CASES)
def test_no_reader_raises_and_an_odd_record_costs_itself_alone(name: str) -> None:
    for number in range(NUM_CASES):
        run_case(name, SEED, number)
