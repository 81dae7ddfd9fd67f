"""The table of pages."""

from collections.abc import Sequence
from typing import Any

from orchestrator.web.page import Page
from orchestrator.web.pages.cluster import CLUSTER
from orchestrator.web.pages.datasets import DATASET, DATASETS
from orchestrator.web.pages.denied import DENIED
from orchestrator.web.pages.events import EVENTS
from orchestrator.web.pages.log import LOG
from orchestrator.web.pages.questions import QUESTION, QUESTIONS
from orchestrator.web.pages.run import RUN
from orchestrator.web.pages.runs import RUNS
from orchestrator.web.pages.shards import SHARDS
from orchestrator.web.pages.stage import STAGE
from orchestrator.web.pages.step import STEP
from orchestrator.web.pages.training import TRAINING

PAGES: Sequence[Page[Any]] = (
    RUNS, RUN, STAGE, TRAINING, STEP, SHARDS, LOG, DATASETS, DATASET, CLUSTER, EVENTS, DENIED, QUESTION, QUESTIONS,
)  # fmt: skip
