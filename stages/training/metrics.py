"""The metrics that every trained stage returns: those of its last step."""

from collections.abc import Mapping

LOOP_METRICS: Mapping[str, str] = {
    "steps_per_s": "optimizer steps per second of the attempt",
    "weight_per_s": "trained tokens, or images, per second of the last step",
    "data_wait_s": "seconds that the last step waited for its data",
    "memory_gib": "most memory of rank 0: of its accelerator, else of its process",
    "tokens_per_s": "tokens computed on per second, padding included",
    "padding_share": "share of them that is padding",
    "mfu": "FLOPs of the model over those that the devices could do at their peak",
    "workers/own_step_s_median": "seconds that a worker needs for its own part of a step: data and forward pass",
    "workers/own_step_s_slowest": "the same of the slowest worker",
    "workers/slowest": "its rank",
    "workers/data_wait_s_most": "seconds of a step that a worker waits for data, at most",
    "workers/memory_gib_most": "most memory of any worker",
    "validation/<metric>": "the same metric on held-out data, newest",
    "data_steps_skipped": "steps of data passed over after a non-finite loss or a spike",
    "checkpoint_stall_s": "seconds that the last checkpoint held up training",
    "checkpoint_write_s": "seconds from its copy to its commit, beside training",
    "checkpoint_interval_s": "seconds between two checkpoints, chosen from these costs",
}


def amount_text(steps: int, per_step: int, unit: str) -> str:
    """How much a training is: "5,000 steps of 1,024 samples: 5,120,000 samples"."""
    return f"{steps:,} steps of {per_step:,} {unit}: {steps * per_step:,} {unit}"


def pass_metrics(name: str, more: Mapping[str, str]) -> dict[str, str]:
    """What a pass reports: its loss first, then its own metrics, then what every pass has."""
    return {
        f"{name}/loss": "loss that is minimized, mean of the last step",
        **{f"{name}/{metric}": meaning for metric, meaning in more.items()},
        f"{name}/grad_norm": "norm of the gradient before clipping",
        f"{name}/lr": "learning rate of the first parameter group",
    }
