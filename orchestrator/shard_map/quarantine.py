"""The count of a map's quarantined items, with their reasons, and its check against the share that the stage allows."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.failures.classes import classified
from orchestrator.failures.failure_class import FailureClass
from orchestrator.identity import canonical_json
from orchestrator.shards import Quarantined

NUM_TOP_REASONS = 3
MAX_SHOWN_CHARACTERS = 160


@dataclass(kw_only=True)
class QuarantineCount:
    """Counts quarantined items over all shards of one map, including reused ones."""

    num_items: int
    max_share: float
    where: str  # "stage: label", for the message
    count: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # reason -> the first such item

    def add(self, quarantined: Iterable[Quarantined]) -> None:
        for entry in quarantined:
            self.count += 1
            self.reasons[entry.reason] += 1
            if len(self.examples) < 1000:
                self.examples.setdefault(entry.reason, canonical_json(entry.item))

    def check(self) -> None:
        """Raises: ClassifiedError (DATA_POISON): more items are quarantined than the stage allows."""
        if self.count <= self.max_share * self.num_items:
            return
        lines = [
            f"  {times} x {shortened(reason)}; first: {shortened(self.examples.get(reason, ''))}"
            for reason, times in self.reasons.most_common(NUM_TOP_REASONS)
        ]
        if more := len(self.reasons) - len(lines):
            lines.append(f"  and {more} more reason{'s' * (more > 1)}; `illume events` has all of them")
        raise classified(
            FailureClass.DATA_POISON,
            f"{self.where}: found {self.count} of {self.num_items} items that cannot be worked on, expected at most "
            f"{self.max_share:.2%}:\n" + "\n".join(lines),
        )


def shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[: MAX_SHOWN_CHARACTERS - 3]}..."
