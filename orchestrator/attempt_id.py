"""The identity of an attempt: its run, its stage, the epoch of the driver that started it, and its unique name."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AttemptId:
    """Identifies one attempt in everything that it writes and in everything recorded about it."""

    run_id: str
    stage_id: str
    epoch: int  # of the driver that started it
    name: str  # unique, never reused; also the name of the attempt's folder

    @classmethod
    def of(cls, run_id: str, stage_id: str, *, epoch: int, number: int) -> "AttemptId":
        """The `number`-th attempt of this epoch, counted from 1."""
        return cls(run_id=run_id, stage_id=stage_id, epoch=epoch, name=f"{run_id}-{stage_id}-{epoch}-{number}")

    def __str__(self) -> str:
        return self.name

    @property
    def provenance(self) -> dict[str, str]:
        """The attempt's entries in the provenance of records in the store."""
        return {"run": self.run_id, "stage": self.stage_id, "attempt": self.name}
