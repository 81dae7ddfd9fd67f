"""What the finished models of the quickstart do on freshly drawn scenes, and what each stage costs, for several seeds.

    python tests/benchmarks/figures.py [--seeds 1 2 3] [--samples 256]

Runs the quickstart in the working folder, once for each seed, and evaluates its models on a world that is drawn from
another seed than theirs. What an earlier run made is reused, and its minutes are then not known. Prints the seconds and
the memory of each stage, the scores of each seed, and of each score the worst. Wants two quiet cores: others make the
minutes longer, not the scores worse.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml

from data_pipelines.evaluation.report import score_table
from data_pipelines.evaluation.results import TASKS

ILLUME = (sys.executable, "-c", "from orchestrator.cli import main; main()")
RECIPE = Path(__file__).resolve().parents[2] / "stages" / "recipes" / "quickstart.yaml"
TRAININGS = ("vision", "tokenizer", "mllm_1", "mllm_2", "mllm_3", "decoder")
SAMPLE_S = 1.0
# A world that no stage of the quickstart has seen, evaluated with the settings of the quickstart's own evaluation.
FRESH = """
  fresh_shapes:
    kind: generate_shapes
    config: {shapes}
    resources: {{workers: 2}}
  fresh_ingested:
    kind: ingest
    inputs: {{raw: fresh_shapes}}
    config: {{read: {{source: shapes}}}}
    resources: {{workers: 2}}
  fresh_curated:
    kind: curate
    inputs: {{records: fresh_ingested}}
    config: {curate}
    resources: {{workers: 2}}
  figures:
    kind: evaluate
    inputs: {{datasets: [fresh_curated], tokenizer: tokenizer, mllm: mllm_3, decoder: decoder}}
    config: {evaluate}
    resources: {{workers: 2}}
"""
FRESH_STAGES = frozenset({"fresh_shapes", "fresh_ingested", "fresh_curated", "figures"})
FRESH_SEED = 20_077


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--samples", type=int, default=256, help="of each task, captions and questions apart")
    options = parser.parse_args()
    found = []
    with TemporaryDirectory(prefix="figures-") as folder:
        recipe = Path(folder, "figures.yaml")
        recipe.write_text(with_fresh_world(RECIPE.read_text(encoding="utf-8"), samples=options.samples))
        for seed in options.seeds:
            memory_gb, whole_s = run(recipe, seed=seed)
            found.append(asked("show", "last:figures")["stages"][0]["metrics"])
            say(f"\n## Seed {seed}\n", *cost_table(memory_gb, whole_s), "", *score_table(found[-1]))
    say(f"\n## The worst of {len(found)} seeds\n", *score_table(worst(found)))


def with_fresh_world(quickstart: str, *, samples: int) -> str:
    """The quickstart with an evaluation of its models on other scenes. `samples`: at least so many of each score."""
    stages = yaml.safe_load(quickstart)["stages"]
    drawn = 2 * samples  # curation drops some, and of the understanding samples about half are captions
    counts = {"understanding": 2 * drawn, "generation": drawn, "editing": drawn}
    shapes = stages["shapes"]["config"] | counts | {"seed": FRESH_SEED, "val_share": 1.0}
    wanted = dict.fromkeys(TASKS, samples) | {"understanding": 3 * samples}
    evaluate = stages["evaluated"]["config"] | {"samples": wanted}
    fresh = FRESH.format(
        shapes=json.dumps(shapes), curate=json.dumps(stages["curated"]["config"]), evaluate=json.dumps(evaluate)
    )
    return quickstart.replace("name: quickstart", "name: quickstart_figures", 1).rstrip() + fresh


def run(recipe: Path, *, seed: int) -> tuple[dict[str, float], float]:
    """Runs the recipe with a seed. Exits if the run fails.

    Returns the most memory (GB) of all its processes in each stage, and the seconds from the command to the end of the
    last stage of the quickstart itself; stages that have nothing to wait for run beside each other.
    """
    settings = [f"stages.{stage}.config.loop.seed={seed}" for stage in TRAININGS]
    settings += [f"stages.mllm_{number}.config.data.seed={3 * (seed - 1) + number}" for number in (1, 2, 3)]
    command = [*ILLUME, "run", str(recipe), *(word for setting in settings for word in ("--set", setting))]
    peaks: dict[str, float] = {}
    began, whole_s = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None, "asked for a pipe"
        stage = ["start"]
        ended = threading.Event()
        sampler = threading.Thread(target=_sample, args=(psutil.Process(process.pid), stage, peaks, ended))
        sampler.start()
        for line in process.stdout:
            sys.stderr.write(line)
            if match := re.match(r"\S+Z (\w+): (RUNNING|COMMITTED)", line):
                stage[0] = match[1]
                if match[2] == "COMMITTED" and match[1] not in FRESH_STAGES:
                    whole_s = time.monotonic() - began
        ended.set()
        sampler.join()
    if process.returncode:
        sys.exit(f"the run failed with exit code {process.returncode}; its last lines say what to do")
    return peaks, whole_s


def _sample(root: psutil.Process, stage: Sequence[str], peaks: dict[str, float], ended: threading.Event) -> None:
    """Memory that the processes share counts once: a part for each of them."""
    while not ended.wait(SAMPLE_S):
        total = 0
        with suppress(psutil.NoSuchProcess):
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_full_info().pss
        peaks[stage[0]] = max(peaks.get(stage[0], 0.0), total / 1e9)


def cost_table(memory_gb: Mapping[str, float], whole_s: float) -> list[str]:
    """Of the stages of the last run; one that was reused has no figures."""
    lines = ["| stage | seconds | memory, GB |", "|---|---|---|"]
    for stage in asked("status", "last")["stages"]:
        name, seconds = stage["stage_id"], stage["elapsed_s"]
        if stage["action"] != "run" or name in FRESH_STAGES or seconds is None:
            continue
        lines.append(f"| {name} | {seconds:.0f} | {memory_gb.get(name, 0.0):.1f} |")
    peak = max((memory for name, memory in memory_gb.items() if name not in FRESH_STAGES), default=0.0)
    return [*lines, f"| all, by the clock | {whole_s:.0f} | {peak:.1f} |"]


def worst(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each score the lowest of all seeds, with the interval, chance and baseline of that seed."""
    metrics: dict[str, float] = {}
    for name in sorted({name for scores in found for name in scores}):
        task, score, *_rest = name.split("/")
        lowest = min(found, key=lambda scores, key=f"{task}/{score}": scores.get(key, math.inf))
        if name in lowest:
            metrics[name] = lowest[name]
    return metrics


def asked(*words: str) -> dict[str, Any]:
    """What a command answers with `--json`."""
    answer = subprocess.run([*ILLUME, *words, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
