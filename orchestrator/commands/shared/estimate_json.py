"""What `illume estimate --json` prints, and every figure that it knows."""

import math
from collections.abc import Sequence

from clusters.planner.estimate import Assumptions, TrainingEstimate
from clusters.planner.measured import MeasuredTraining
from clusters.planner.memory import Layout
from clusters.planner.prices import Prices
from clusters.planner.recipes import StageEstimate
from orchestrator.artifact import JSON

FORMAT = 1


def estimates_to_json(
    recipe: str, estimates: Sequence[StageEstimate], prices: Prices, assumptions: Assumptions
) -> dict[str, JSON]:
    """Bytes, seconds, FLOPs, hours; null is unknown."""
    shares, failures = assumptions.peak_shares, assumptions.failures
    return {
        "format": FORMAT,
        "recipe": recipe,
        "assumptions": {
            "peak_share": {"low": shares.low, "expected": shares.expected, "high": shares.high},
            "hours_between_failures": failures.hours_between_failures,
            "preemptions_per_day": failures.preemptions_per_day,
            "restart_s": failures.restart_s,
            "checkpoint_gbs": assumptions.checkpoint_gbs,
            "prices_of": prices.date,
        },
        "stages": [_stage_json(estimate) for estimate in estimates],
    }


def _stage_json(estimate: StageEstimate) -> dict[str, JSON]:
    facts = estimate.facts
    trainings: list[JSON] = [_training_json(training) for training in estimate.trainings]
    return {
        "stage": estimate.stage_id,
        "kind": estimate.kind,
        "measured_s": estimate.measured_s,
        "measured": _measured_json(estimate.measured),
        "unknown": estimate.unknown or None,
        "training": None
        if facts is None
        else {
            "item": facts.item,
            "steps": facts.steps,
            "items_per_step": facts.items_per_step,
            "samples_per_item": facts.samples_per_item or None,
            "tokens_per_item": facts.tokens_per_item or None,
            "parameters": facts.parameters,
            "trained_parameters": facts.trained_parameters,
            "training_flops_per_item": facts.training_flops,
            "recomputed_flops_per_item": facts.recomputed_flops,
            "parts": {
                part.name: {
                    "parameters": part.parameters,
                    "trained_parameters": part.trained_parameters,
                    "forward_flops_per_item": part.forward_flops,
                }
                for part in facts.parts
            },
            "assumptions": list(facts.assumptions),
        },
        "machines": trainings,
        "chosen": estimate.chosen.machine if estimate.chosen else None,
    }


def _training_json(training: TrainingEstimate) -> dict[str, JSON]:
    verdict, checkpoint, step = training.verdict, training.checkpoint, training.step
    parts = verdict.parts
    timed = training.possible
    return {
        "machine": training.machine,
        "device": training.device,
        "fits": verdict.fits,
        "usable_bytes": verdict.usable,
        "needed_bytes": parts.total,
        "parts_bytes": {
            "weights": parts.weights,
            "gradients": parts.gradients,
            "optimizer": parts.optimizer,
            "live_units": parts.live_units,
            "activations": parts.activations,
            "scores": parts.scores,
            "inputs": parts.inputs,
            "buffers": parts.buffers,
        },
        "layout": _layout_json(verdict.layout),
        "change": {"text": verdict.change_text, "layout": _layout_json(verdict.change)} if verdict.change else None,
        "is_measured": training.is_measured,
        "step_s": {
            "total": step.total_s,
            "compute": step.compute_s,
            "communication": step.communication_s,
            "exposed_communication": step.exposed_s,
            "data": step.data_s or None,
        }
        if timed
        else None,
        "wall_s": _range_json(training.wall_s) if timed else None,
        "gpu_hours": _range_json(training.gpu_hours) if timed else None,
        "cost": {"low": training.cost.low, "high": training.cost.high, "currency": training.cost.currency}
        if timed and training.cost
        else None,
        "checkpoint": {
            "bytes": checkpoint.bytes,
            "write_s": checkpoint.write_s,
            "interval_s": None if math.isinf(checkpoint.interval_s) else checkpoint.interval_s,
            "waste_share": checkpoint.waste_share,
        },
        "notes": list(training.notes),
    }


def _measured_json(found: MeasuredTraining | None) -> JSON:
    if found is None:
        return None
    low, median, high = found.flops_per_s
    return {
        "device": found.device,
        "strategy": found.strategy,
        "workers": found.workers,
        "run": found.run_id,
        "attempts": found.attempts,
        "flops_per_s": {"low": low, "expected": median, "high": high},
        "checkpoint_stall_s": found.stall_s,
    }


def _layout_json(layout: Layout) -> dict[str, JSON]:
    return {
        "strategy": layout.strategy,
        "workers": layout.workers,
        "shards": layout.shards,
        "micro_items": layout.micro_items,
        "recompute": layout.recompute,
    }


def _range_json(found: object) -> dict[str, JSON]:
    return {end: float(getattr(found, end)) for end in ("low", "expected", "high")}
