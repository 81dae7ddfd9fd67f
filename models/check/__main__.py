"""`python -m models.check FILE.json ...`: every comparison in a line; exits 1 on any miss, 2 if a file is unusable."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from models.check.anchors import check_anchors
from models.check.conversations import check_conversations
from models.check.language import check_language
from models.check.layouts import check_discriminator_layout, check_mllm_layout, check_tokenizer_layout
from models.check.report import Finding, Report, Vectors, VectorsError
from models.check.tokenizer import check_tokenizer
from models.check.training import check_training

_EXTRA = "_extra"
_EXTRA_SECTIONS = {"train", "gan", "noise", "discriminator", "lpips", "mllm_input", "sampler"}
_EXTRA_NOTES = {"description", "note", "produced_with", "seed"}
_MARKS = {True: "ok  ", False: "MISS", None: "--  "}
_FORMATS = (
    "DualViTok cases (model_config, vit_config, cases), training and language vectors (any of "
    f"{', '.join(sorted(_EXTRA_SECTIONS))}), anchor decisions (anchors_hw), conversations (tiny_tokenizer), "
    "state dicts (tensors), additions to a language model (models)"
)


def check_file(path: Path) -> Report:
    """Everything that one file states. Raises: VectorsError if it is not one of the known formats."""
    vectors, report = read(path), Report()
    facts = vectors.facts
    try:
        _check(vectors, report)
    except (KeyError, IndexError, TypeError) as error:
        raise VectorsError(f"{path}: {error!r}: not as its format has it; found {', '.join(facts)}") from error
    if not report.compared:
        raise VectorsError(f"{path}: nothing in it could be compared")
    return report


def _check(vectors: Vectors, report: Report) -> None:
    facts = vectors.facts
    if {"model_config", "vit_config", "cases"} <= facts.keys():
        check_tokenizer(vectors, report)
    elif "anchors_hw" in facts:
        check_anchors(vectors, report)
    elif "tiny_tokenizer" in facts:
        check_conversations(vectors, report)
    elif "models" in facts:
        check_mllm_layout(vectors, report)
    elif "tensors" in facts:
        is_discriminator = "main.0.weight" in facts["tensors"]
        (check_discriminator_layout if is_discriminator else check_tokenizer_layout)(vectors, report)
    elif _EXTRA_SECTIONS & facts.keys():
        base = read(_base_file(Path(vectors.where)))
        check_training(vectors, base, report)
        check_language(vectors, base, report)
        for name in facts.keys() - _EXTRA_SECTIONS - _EXTRA_NOTES:
            report.skip(name, "a section of no known kind")
    else:
        raise VectorsError(f"{vectors.where}: found {', '.join(facts) or 'nothing'}; expected one of: {_FORMATS}")


def read(path: Path) -> Vectors:
    """A file and the tensors beside it. Raises: VectorsError."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise VectorsError(f"{path}: cannot be read ({error})") from error
    if not isinstance(facts, dict):
        raise VectorsError(f"{path}: found a {type(facts).__name__}, expected an object of facts")
    beside = path.with_suffix(".safetensors")
    tensors: dict[str, Tensor] = {}
    if beside.exists():
        try:
            tensors = safetensors.torch.load_file(beside)
        except (OSError, SafetensorError) as error:
            raise VectorsError(f"{beside}: cannot be read ({error})") from error
    return Vectors(where=str(path), facts=facts, tensors=tensors)


def _base_file(path: Path) -> Path:
    """The DualViTok file whose weights the vectors of an extra file were made with."""
    base = path.with_name(path.stem.removesuffix(_EXTRA) + path.suffix)
    if base == path or not base.exists():
        others = sorted(other.name for other in path.parent.glob("*.json") if _has_weights(other))
        raise VectorsError(
            f"{path}: needs the weights of its DualViTok file; expected {base.name if base != path else 'NAME.json'} "
            f"beside NAME{_EXTRA}.json, found {', '.join(others) or 'none'}"
        )
    return base


def _has_weights(path: Path) -> bool:
    return path.with_suffix(".safetensors").exists() and not path.stem.endswith(_EXTRA)


def _lines(findings: Sequence[Finding]) -> str:
    return "\n".join(f"  {_MARKS[finding.equal]} {finding.name}: {finding.text}" for finding in findings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 all equal, 1 a miss, 2 a file that cannot be checked."""
    parser = argparse.ArgumentParser(
        prog="python -m models.check", description=__doc__.replace("`", "") if __doc__ else ""
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--quiet", action="store_true", help="print misses and parts that were not compared only")
    options = parser.parse_args(arguments)
    worst = 0
    for path in options.files:
        try:
            report = check_file(path)
        except VectorsError as error:
            sys.stdout.write(f"{error}\n")
            worst = 2
            continue
        shown = [finding for finding in report.findings if not (options.quiet and finding.equal)]
        left_out = len(report.findings) - report.compared
        rest = f", {left_out} parts not compared" if left_out else ""
        summary = f"{report.compared} compared, {report.misses} missed{rest}"
        sys.stdout.write("\n".join([str(path), *([_lines(shown)] if shown else []), f"  {summary}", ""]))
        worst = max(worst, int(report.misses > 0))
    return worst


if __name__ == "__main__":
    sys.exit(main())
