"""Money for accelerator hours, from a dated file; what the file does not list is unknown, never 0."""

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path

from clusters.planner.machines import MachineType
from orchestrator.devices import find_device
from orchestrator.documents.typed_json import Problem, decode, path_text
from orchestrator.errors import RecipeError
from orchestrator.recipe.yaml_subset import parse_yaml, read_text

BUILT_IN = Path(__file__).parents[1] / "prices.yaml"
_OLD_AFTER = dt.timedelta(days=270)


@dataclass(frozen=True, kw_only=True)
class DevicePrice:
    """For one accelerator and hour."""

    on_demand: tuple[float, float]  # lowest and highest
    spot: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.on_demand[0] <= self.on_demand[1]:
            raise ValueError(f"on_demand: {list(self.on_demand)}; expected [lowest, highest] above 0")


@dataclass(frozen=True, kw_only=True)
class Prices:
    date: str  # of the prices, ISO 8601
    per_gpu_hour: dict[str, DevicePrice] = field(default_factory=dict)
    currency: str = "USD"
    source: str = ""

    def __post_init__(self) -> None:
        try:
            dt.date.fromisoformat(self.date)
        except ValueError as error:
            raise ValueError(f"date: {self.date!r}; expected one such as 2026-06-01") from error

    def is_old(self, today: dt.date) -> bool:
        return today - dt.date.fromisoformat(self.date) > _OLD_AFTER


@dataclass(frozen=True, kw_only=True)
class Money:
    """A range; equal ends are one price."""

    low: float
    high: float
    currency: str


def load_prices(file: Path = BUILT_IN) -> Prices:
    """Raises: RecipeError: the file cannot be read, or names an accelerator twice or wrongly."""
    document = parse_yaml(read_text(file, "price file"), str(file))
    problems: list[Problem] = list(document.problems)
    prices = decode(Prices, document.data, (), problems)
    if prices is None or problems:
        lines = [f"  {path_text(problem.path)}: {problem.text}" for problem in problems]
        raise RecipeError("\n".join([f"{file}: cannot be used as prices:", *lines]))
    return prices


def money(prices: Prices, machine: MachineType, gpu_hours: float) -> Money | None:
    """What that many hours of one accelerator cost; None: unknown."""
    if machine.price_per_gpu_hour is not None:
        price = machine.price_per_gpu_hour
        return Money(low=price * gpu_hours, high=price * gpu_hours, currency=prices.currency)
    found = prices.per_gpu_hour.get(_canonical(machine.gpu))
    if found is None:
        return None
    low, high = found.on_demand
    if machine.spot:
        if found.spot is None:
            return None
        low = high = found.spot
    return Money(low=low * gpu_hours, high=high * gpu_hours, currency=prices.currency)


def _canonical(name: str) -> str:
    try:
        return find_device(name)[0]
    except RecipeError:
        return name
