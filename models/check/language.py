"""The unified model around its decoder: the input layout with projected features, and the sampler's state machine."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models.check.formulas import formula_images, formula_scores
from models.check.report import Report, Vectors, with_prefix
from models.check.tokenizer import build_tokenizer
from models.dualvitok.geometry import pixel_grid, semantic_grid
from models.mllm.config import LevelSampling
from models.mllm.grammar import Allowed, RowState, Rules
from models.mllm.projector import MixedProjector
from models.mllm.sampling import apply_guidance, mask_scores, select_candidates
from models.mllm.vision import ImageFeatures, VisionBranch, read_images
from models.mllm.vocabulary import PIXEL_FEATURE, SEMANTIC_FEATURE, VisionVocabulary
from models.strict_weights import load_strictly

_IMAGE = -200  # what the published dataset writes where an input image goes
_SEMANTIC_ATOL = 2e-5  # of the tower
_PIXEL_ATOL = 1e-4  # of the pixel encoder
_SCORES_ATOL = 1e-4
_NEVER = float("-inf")


def check_language(vectors: Vectors, base: Vectors, report: Report) -> None:
    """The language model's part of an extra file; `base` is the DualViTok file with the encoders' weights."""
    if "mllm_input" in vectors.facts:
        _Inputs(vectors, base, report).check()
    if "sampler" in vectors.facts:
        for name, run in vectors.facts["sampler"]["runs"].items():
            _SamplerRun(vectors.facts["sampler"]).check(name, run, report)
        for name in ("parse_example", "pad_truncate_example"):
            if name in vectors.facts["sampler"]:
                report.skip(f"sampler/{name}", "wrong numbers of codes cannot occur here, so none are mended")


class _Inputs:
    """Embeddings of packed samples: table rows for ids and markers, projected features at the positions of codes."""

    def __init__(self, vectors: Vectors, base: Vectors, report: Report) -> None:
        self.facts: Mapping[str, Any] = vectors.facts["mllm_input"]
        self.tensors, self.report = vectors.tensors, report
        self.table = vectors.tensors["mllm/embed_tokens.weight"].float()
        first = int(re.findall(r"(\d+)\.\.\d+", self.facts["special_tokens_ids"])[0])
        self.vocabulary = VisionVocabulary(first_id=first, semantic_codes=1, pixel_codes=1, resolutions=())
        self.tokenizer = build_tokenizer(base)
        self.projected = list(self._projected())

    def _projected(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Layout (ids, placeholders negative) and rows of each image: markers from the table, features projected."""
        config = self.tokenizer.config
        projector = MixedProjector(
            semantic_width=config.vision.output_width,
            pixel_width=config.pixel.code_width,
            hidden_size=self.table.shape[1],
        )
        for part, theirs in ((projector.semantic, "projector_1"), (projector.pixel, "projector_2")):
            load_strictly(part, with_prefix(self.tensors, f"mllm/projector/{theirs}."), where=theirs)
        branch = VisionBranch.of(self.tokenizer)
        for image in self.facts["images"]:
            pixels = list(formula_images(image["h"], image["w"], [image["k"]]))
            with torch.no_grad():
                features: ImageFeatures = read_images(branch, pixels)[0]
                semantic, pixel = projector(features.semantic_TD, features.pixel_TD)
            grids = (
                semantic_grid(image["h"], image["w"]),
                pixel_grid(image["h"], image["w"], factor=self.tokenizer.pixel_factor),
            )
            layout = torch.from_numpy(self.vocabulary.feature_block_ids(*grids))
            rows = self.table[layout.clamp(min=0)]
            rows[layout == SEMANTIC_FEATURE], rows[layout == PIXEL_FEATURE] = semantic, pixel
            yield layout, rows

    def check(self) -> None:
        for index, (layout, rows) in enumerate(self.projected):
            name = f"mllm/image_features_{index}"
            expected = self.tensors[name]
            self.report.expect_equal(f"{name} rows", len(layout), self.facts["images"][index]["feature_rows"])
            if rows.shape != expected.shape:
                self.report.fail(name, f"shape {list(rows.shape)}, expected {list(expected.shape)}")
                continue
            markers = layout >= 0
            self.report.expect_tensor(f"{name} markers", rows[markers], expected[markers], 0)
            for kind, feature, atol in (
                ("semantic", SEMANTIC_FEATURE, _SEMANTIC_ATOL),
                ("pixel", PIXEL_FEATURE, _PIXEL_ATOL),
            ):
                places = layout == feature
                self.report.expect_tensor(f"{name} {kind}", rows[places], expected[places], atol)
        for name in self.facts:
            if name.startswith("maxlen_"):
                self._check_batch(name)

    def _check_batch(self, name: str) -> None:
        """The whole batch: published rows are padded on the left and cut on the right at the maximal length."""
        limit = None if name == "maxlen_None" else int(name.removeprefix("maxlen_"))
        embeds, labels = self.tensors[f"mllm/{name}/inputs_embeds"], self.tensors[f"mllm/{name}/labels"]
        attention = self.tensors[f"mllm/{name}/attention_mask"]
        images = iter(self.projected)
        for row, (ids, known) in enumerate(zip(self.facts["input_ids"], self.facts["labels"], strict=True)):
            vectors_TD, labels_T = self._spliced(ids, known, images)
            vectors_TD, labels_T = vectors_TD[:limit], labels_T[:limit]
            length = len(labels_T)
            self.report.expect_equal(f"mllm/{name} row {row} length", length, int(attention[row].sum()))
            if length > embeds.shape[1]:
                continue
            place = slice(embeds.shape[1] - length, None)
            self.report.expect_equal(f"mllm/{name} row {row} labels", labels_T, labels[row, place].tolist())
            self.report.expect_tensor(
                f"mllm/{name} row {row} inputs_embeds", vectors_TD, embeds[row, place], _PIXEL_ATOL
            )
            trained = [label for label in labels_T if label != -100]
            self.report.expect_equal(f"mllm/{name} row {row} trained", trained, self.facts[name]["trained_labels"][row])

    def _spliced(
        self, ids: Sequence[int], known: Sequence[int], images: Iterator[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[int]]:
        parts: list[Tensor] = []
        labels: list[int] = []
        for token, label in zip(ids, known, strict=True):
            block = next(images)[1] if token == _IMAGE else self.table[token][None]
            parts.append(block)
            labels += [label] * len(block)
        return torch.cat(parts), labels


class _SamplerRun:
    """Our grammar, guidance and top-k/top-p cuts on a tiny vocabulary, with scores from a formula."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        special, self.size = facts["vocab"]["special"], facts["vocab"]["size"]
        (semantic, semantic_end), (pixel, pixel_end) = facts["vocab"]["level0"], facts["vocab"]["level1"]
        self.vocabulary = VisionVocabulary(
            first_id=special["start_of_image"],
            semantic_codes=semantic_end - semantic,
            pixel_codes=pixel_end - pixel,
            resolutions=(),
        )
        grid = facts["grid"]
        rules = Rules(
            self.vocabulary,
            lambda *_: (grid["h1"], grid["w1"]),
            lambda *_: (grid["h2"], grid["w2"]),
            end_id=special["end_of_text"],
        )
        tokens_left = max(len(run["steps"]) for run in facts["runs"].values()) + len(rules.plan((16, 16)))
        self.state = RowState(rules=rules, tokens_left=tokens_left, images_left=tokens_left, resolution=(16, 16))
        names = {"text": "default", "semantic": "level0", "pixel": "level1"}
        self.levels = {
            kind: LevelSampling(
                temperature=facts["params"][name]["temp"],
                top_k=facts["params"][name]["top_k"],
                top_p=facts["params"][name]["top_p"],
            )
            for kind, name in names.items()
        }

    def check(self, name: str, run: Mapping[str, Any], report: Report) -> None:
        scale = float(name.removeprefix("guidance_"))
        in_image = 0
        for step in run["steps"]:
            in_image = in_image + 1 if self.state.in_image else 0
            ours = self._processed(step["step"], in_image, scale)
            place = f"sampler/{name} step {step['step']}"
            report.expect_equal(f"{place} ids", torch.isfinite(ours).nonzero().flatten().tolist(), step["finite_ids"])
            expected = {int(token): value for token, value in step["processed"].items()}
            difference = ours[list(expected)] - torch.tensor(list(expected.values()))
            # Inside images the published values are log-probabilities: the same up to one constant per step.
            shift = difference[0] if self.state.in_image else torch.zeros(())
            report.expect_tensor(f"{place} scores", difference - shift, torch.zeros_like(difference), _SCORES_ATOL)
            if step["next"] is None:
                continue
            try:
                self.state.accept(step["next"])
            except ValueError as error:
                report.fail(f"{place} next", str(error))
                return
        report.expect_equal(f"sampler/{name} sequence", self.state.generated, run["sequence"])

    def _processed(self, step: int, in_image: int, scale: float) -> Tensor:
        """Scores [V] after guidance, grammar and cuts; -inf where nothing may be drawn."""
        allowed = self.state.allowed()
        scores = formula_scores(self.size, step, salt=0)
        if self.state.in_image and scale != 1:
            scores = apply_guidance(scores, formula_scores(self.size, in_image, salt=5), scale)
        if not self.state.in_image:
            # The published grammar lets an image end that never began; that id is added here to compare the rest.
            allowed = Allowed(allowed.ids, (*allowed.others, self.vocabulary.end_of_image))
        level = self.levels[self.state.kind]
        found = select_candidates(mask_scores(scores, [allowed], range(self.size)), [level])
        return torch.full((1, self.size), _NEVER).scatter(1, found.ids_BK, found.scores_BK)[0]
