"""The classes of failure. How errors are mapped to them: `classes.py`; what follows from each: `retries.py`."""

import enum


class FailureClass(enum.StrEnum):
    """The classes of failure, by precedence: the first is the strongest evidence. Budgets are in `retries.decide`."""

    PREEMPTED = "preempted"  # the node was preempted; other errors at the same time are consequences
    PRECHECK = "precheck"
    CONTROLLER_LOST = "controller_lost"  # the driver died, or another driver took over
    GPU_OOM = "gpu_oom"
    HOST_OOM = "host_oom"
    NUMERIC = "numeric"
    DATA_POISON = "data_poison"  # items of the input, more than the stage may leave out
    DATA = "data"  # the input as a whole is missing, damaged or does not fit
    USER_CODE = "user_code"
    HANG = "hang"
    CAPACITY = "capacity"  # the requested resources are not available now
    NODE_LOST = "node_lost"  # a worker process or its node died
    INFRA_TRANSIENT = "infra_transient"
    UNKNOWN = "unknown"


# Not caused by the stage: the same attempt may succeed elsewhere or later.
INFRASTRUCTURE = frozenset(
    {
        FailureClass.PREEMPTED,
        FailureClass.CONTROLLER_LOST,
        FailureClass.CAPACITY,
        FailureClass.NODE_LOST,
        FailureClass.INFRA_TRANSIENT,
    }
)
