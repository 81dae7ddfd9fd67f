"""The errors that the kernel raises on purpose; each prints as one message, without a traceback.

Every class takes exactly one message and has no `__init__`, so that it can be pickled back from a Ray worker.
"""

EXIT_FAILED = 1  # work failed, or was cancelled
EXIT_UNUSABLE = 2  # nothing ran; fix the input
EXIT_INFRASTRUCTURE = 75  # the infrastructure failed (EX_TEMPFAIL of sysexits.h); the same command may succeed later
EXIT_REQUEUE = 85  # stopped from outside before the end; run the same command again


class OrchestratorError(Exception):
    """A problem that is explained to the user."""

    exit_code = EXIT_FAILED


class RecipeError(OrchestratorError):
    """The recipe, an override or a command-line value is wrong."""

    exit_code = EXIT_UNUSABLE


class PluginError(RecipeError):
    """A plugin cannot be imported, is missing or of another version, or its stage kinds cannot be used."""


class PrecheckError(OrchestratorError):
    """A stage found, before using any resources, that it cannot run."""

    exit_code = EXIT_UNUSABLE


class MissingExtraError(OrchestratorError):
    """Something was asked for that needs an optional package, which is not installed."""

    exit_code = EXIT_UNUSABLE


class StoreError(OrchestratorError):
    """The artifact store cannot be used as it is (unreachable, unwritable, full, or it ignores put-if-absent)."""

    exit_code = EXIT_INFRASTRUCTURE


class UnfitStoreError(StoreError):
    """The store works, but does not give the guarantees that the commit protocol needs."""

    exit_code = EXIT_UNUSABLE


class FencedError(StoreError):
    """The attempt was aborted, by its driver or by an attempt that took over; nothing that it writes counts."""


class TakenDownError(FencedError):
    """A takedown took effect after the attempt began, and the attempt may have read what it removes."""


class UnreachableStoreError(StoreError):
    """The store, or a part of it, is not there (not mounted, a listing that lags). Nothing may be concluded from it."""


class RetainedError(StoreError):
    """The store keeps an object for a time (object lock, retention, legal hold) and does not delete it before."""


class ForeignStoreError(StoreError):
    """The store is another one than the database belongs to."""

    exit_code = EXIT_UNUSABLE


class DatabaseError(OrchestratorError):
    """The index database cannot be used as it is."""

    exit_code = EXIT_INFRASTRUCTURE


class UnfitDatabaseError(DatabaseError):
    """The database would work, but not keep what is written (SQLite on a network file system)."""

    exit_code = EXIT_UNUSABLE


class LeaseLostError(OrchestratorError):
    """Another driver holds the lease, or ours expired before it could be renewed."""

    exit_code = EXIT_INFRASTRUCTURE


class CorruptArtifactError(OrchestratorError):
    """Committed files are missing or differ from their digests."""


class NewerFormatError(OrchestratorError):
    """A record has a format that is newer than this program. It is not damaged: never retract, heal or replace it."""

    exit_code = EXIT_UNUSABLE


class PoisonError(OrchestratorError):
    """Stage code found input that no retry can repair; the shard map bisects it down to single items."""


class StageCodeError(OrchestratorError):
    """The code of a stage uses its context, or returns something, in a way that cannot work; the author repairs it."""


class GateError(OrchestratorError):
    """A metric of a stage is outside the bounds that the recipe sets."""


class NothingKeptError(OrchestratorError):
    """A stage looked at all of its input and found nothing that it keeps."""


class NodeLostError(OrchestratorError):
    """A worker process or its node died; its work is retried."""

    exit_code = EXIT_INFRASTRUCTURE


class PreemptedError(NodeLostError):
    """Nodes are taken away; the work ended in time, and goes on elsewhere."""


class NumericError(OrchestratorError):
    """A loss or gradient is non-finite; the message names the step and the learning rate."""


class RanksDisagreeError(OrchestratorError):
    """Training workers that must be alike start from different states, orders or configurations."""

    exit_code = EXIT_INFRASTRUCTURE


class HangError(OrchestratorError):
    """No progress was made for longer than the stage allows."""


class StageFailedError(OrchestratorError):
    """One or more stages failed for good; the message lists them and the stages that could not run because of them."""


class InfrastructureFailedError(StageFailedError):
    """Stages failed for good, all of them because of the infrastructure."""

    exit_code = EXIT_INFRASTRUCTURE


class NothingRanError(StageFailedError):
    """The first stages of a run found that they cannot work as they are asked to; nothing was made."""

    exit_code = EXIT_UNUSABLE


class CancelledError(OrchestratorError):
    """The user cancelled the run; committed work is kept."""


class DetachedError(OrchestratorError):
    """This process no longer follows a job; the job keeps running, and the next driver of the run follows it."""

    exit_code = EXIT_REQUEUE


class StoppedError(CancelledError):
    """A signal stopped the driver; the run can be continued."""

    exit_code = EXIT_REQUEUE


def declared_failure(error: BaseException) -> str:
    """The class of failure that an error of another room declares for itself, "" if it declares none.

    Other rooms do not import these errors. Theirs have a class attribute `failure_class` with the name of a
    `FailureClass`, such as "data": what was given is missing, damaged or does not fit.
    """
    declared = getattr(type(error), "failure_class", "")  # the rooms share no class
    return declared if isinstance(declared, str) else ""
