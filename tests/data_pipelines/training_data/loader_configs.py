"""Configurations of the loader for the two datasets of `conftest.py`."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from data_pipelines.training_data.config import LoaderConfig, MixturePart

TASKS = ("text", "understanding", "generation", "editing")
ROW_TOKENS = 700


def config_of(*parts: MixturePart, **changes: Any) -> LoaderConfig:
    chosen = parts or (MixturePart(tasks=TASKS, weight=1.0),)
    fields: dict[str, Any] = {"seed": 7, "row_tokens": ROW_TOKENS, "rows_per_step": 4} | changes
    return LoaderConfig(parts=chosen, **fields)


TWO_PARTS = (
    MixturePart(tasks=("generation", "editing"), weight=3.0, dataset=0),
    MixturePart(tasks=TASKS, weight=1.0, dataset=1),
)


configs = st.builds(
    lambda row_tokens, rows_per_step, seed, weights, dropout, packing: config_of(
        *(replace(part, weight=weight) for part, weight in zip(TWO_PARTS, weights, strict=True)),
        row_tokens=row_tokens,
        rows_per_step=rows_per_step,
        seed=seed,
        condition_dropout=dropout,
        packing=packing,
    ),
    row_tokens=st.sampled_from([200, 350, 1500]),
    rows_per_step=st.integers(1, 5),
    seed=st.integers(0, 3),
    weights=st.tuples(st.sampled_from([0.3, 1.0, 7.0]), st.sampled_from([0.5, 1.0])),
    dropout=st.sampled_from([0.0, 0.1, 0.5]),
    packing=st.sampled_from(["next_fit", "best_fit"]),
)
