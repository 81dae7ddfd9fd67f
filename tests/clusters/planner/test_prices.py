import datetime as dt
from pathlib import Path

import pytest

from clusters.planner.machines import MachineType
from clusters.planner.prices import Money, Prices, load_prices, money
from orchestrator.errors import RecipeError

H100 = MachineType(gpu="H100", gpus=8)


def test_the_built_in_file_is_dated_and_names_its_source() -> None:
    prices = load_prices()
    assert dt.date.fromisoformat(prices.date) > dt.date(2026, 1, 1)
    assert prices.source
    assert "H100-SXM" in prices.per_gpu_hour


def test_money_is_a_range() -> None:
    assert money(load_prices(), H100, 100) == Money(low=199, high=500, currency="USD")


def test_unknown_is_unknown_never_nothing() -> None:
    assert money(load_prices(), MachineType(gpu="L40S", gpus=8), 100) is None
    assert money(load_prices(), MachineType(gpu="H100", gpus=8, spot=True), 100) is None  # no spot price is listed


def test_a_price_of_the_machine_type_counts_first() -> None:
    own = MachineType(gpu="Novel-1", gpus=8, price_per_gpu_hour=0.5)
    assert money(load_prices(), own, 10) == Money(low=5, high=5, currency="USD")
    assert money(load_prices(), MachineType(gpu="B200", gpus=8, spot=True), 10) == Money(
        low=22.5, high=22.5, currency="USD"
    )


def test_prices_of_last_year_are_old() -> None:
    prices = Prices(date="2025-06-01")
    assert prices.is_old(dt.date(2026, 6, 1))
    assert not prices.is_old(dt.date(2025, 8, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date: yesterday\n", "date: 'yesterday'"),
        ("date: 2026-01-01\nper_gpu_hour: {H100-SXM: {on_demand: [5, 2]}}\n", "lowest, highest"),
        ("date: 2026-01-01\nper_gpu_hour: {H100-SXM: {price: 5}}\n", "price"),
        ("per_gpu_hour: {}\n", "date"),
    ],
)
def test_a_wrong_file_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_prices(file)
    assert str(file) in str(caught.value)
