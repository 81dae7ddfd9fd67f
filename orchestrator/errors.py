"""The errors that the kernel raises on purpose; each prints as one message, without a traceback.

Every class takes exactly one message and has no `__init__`, so it survives the trip from a Ray worker.
"""


class OrchestratorError(Exception):
    """A problem that is explained to the user. `exit_code` 1: work failed; 2: nothing ran, fix the input."""

    exit_code = 1


class RecipeError(OrchestratorError):
    """The recipe, an override or a command-line value is wrong."""

    exit_code = 2


class PrecheckError(OrchestratorError):
    """A stage found, before spending anything, that it cannot work."""

    exit_code = 2


class StoreError(OrchestratorError):
    """The artifact store cannot be used as it is (unreachable, unwritable, full, or it ignores put-if-absent)."""


class DatabaseError(OrchestratorError):
    """The index database cannot be used as it is."""


class LeaseLostError(OrchestratorError):
    """Another driver holds the lease, or ours ran out before it could be renewed."""


class CorruptArtifactError(OrchestratorError):
    """Committed files are missing or differ from their digests."""


class PoisonError(OrchestratorError):
    """Stage code found input that no retry can repair; the shard map narrows it down to single items."""


class NodeLostError(OrchestratorError):
    """A worker process or its node died; the work in flight is tried again."""


class NumericError(OrchestratorError):
    """A loss or gradient stopped being finite; the message names the step and the learning rate."""


class HangError(OrchestratorError):
    """No progress was made for longer than the stage allows."""


class StageFailedError(OrchestratorError):
    """One or more stages failed for good; the message lists them and what they held back."""


class CancelledError(OrchestratorError):
    """The user asked to stop; committed work is kept."""
