"""A trained ILLUME+ in use: draw, edit, describe and answer, from a notebook as well as from a stage.

Pictures are PIL images in and out; sizes are (height, width). Legend: B batch, C channels, Y X pixel rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data_pipelines.datasets.samples import Sample, SampleImage
from data_pipelines.images.model_input import grids, input_pixels, input_size, is_cropped, pixels_to_input
from data_pipelines.inference.input_settings import ModelInput, load_input
from data_pipelines.tokens.conversations import editing_request, generation_request, question, render_prompt
from data_pipelines.tokens.vocabulary import Vocabulary, load_vocabulary
from models.diffusion.decoder import DiffusionDecoder
from models.diffusion.weights import load as load_decoder
from models.dualvitok.geometry import PUBLISHED_MAX_CROP, Size, as_rgb, match_anchor, pad_to_anchor, remove_padding
from models.dualvitok.model import Codes, DualViTok
from models.dualvitok.weights import load as load_tokenizer
from models.metrics.image_metrics import to_levels
from models.mllm.config import SamplingConfig
from models.mllm.generation import Generation, Generator, Prompt
from models.mllm.grammar import Rules
from models.mllm.model import UnifiedMllm
from models.mllm.weights import load as load_mllm


@dataclass(frozen=True, kw_only=True)
class Request:
    """One conversation to be continued, with the pictures of its input slots as the model reads them."""

    sample: Sample
    images: tuple[torch.Tensor, ...] = ()  # CYX in [-1, 1]
    resolution: Size | None = None  # of a picture to draw
    seed: int = 0


class IllumePlus:
    """The models of one finished run together. `decoder` is optional: without it pictures stay at the codes' size."""

    def __init__(
        self,
        *,
        tokenizer: DualViTok,
        mllm: UnifiedMllm,
        vocabulary: Vocabulary,
        reading: ModelInput,
        decoder: DiffusionDecoder | None = None,
    ) -> None:
        self.tokenizer, self.vocabulary, self.reading, self.decoder = tokenizer, vocabulary, reading, decoder
        factor = tokenizer.pixel_factor
        rules = Rules(
            vocabulary=vocabulary.vision,
            semantic_grid=lambda height, width: grids((height, width), factor)[0],
            pixel_grid=lambda height, width: grids((height, width), factor)[1],
            end_id=vocabulary.text.im_end_id,
            resolutions=reading.anchors,
        )
        self._generator = Generator(mllm, rules)
        self._device = next(mllm.parameters()).device

    @staticmethod
    def load(tokenizer: Path, mllm: Path, decoder: Path | None = None, *, device: str = "cpu") -> "IllumePlus":
        """The models in the folders of the artifacts `tokenizer@1`, `mllm@1` and `decoder@1`."""
        return IllumePlus(
            tokenizer=load_tokenizer(tokenizer, device),
            mllm=load_mllm(mllm, device),
            vocabulary=load_vocabulary(mllm),
            reading=load_input(mllm),
            decoder=load_decoder(decoder, device) if decoder is not None else None,
        )

    def generate(
        self, prompts: Sequence[str], size: Size, sampling: SamplingConfig, *, first_seed: int = 0
    ) -> list[Codes]:
        """Codes of one picture of `size` for each text; seeds count from `first_seed` in the order of the list."""
        requests = [
            Request(sample=generation_request(text, size), resolution=size, seed=seed)
            for seed, text in enumerate(prompts, start=first_seed)
        ]
        return self.draw(requests, sampling)

    def draw(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Codes]:
        """Codes of the picture that answers each request."""
        return [answer.images[0] for answer in self.answer(requests, _drawing(sampling))]

    def edit(self, picture: Image.Image, instruction: str, sampling: SamplingConfig) -> Image.Image:
        """The picture changed as told, in its own size; white padding inside the anchor is cut off again (facts 3)."""
        anchor = self.nearest_anchor(picture.size)
        padded = pad_to_anchor(as_rgb(picture), anchor)
        request = Request(
            sample=editing_request(instruction, anchor),
            images=(torch.from_numpy(pixels_to_input(np.asarray(padded))),),
            resolution=anchor,
        )
        (drawn,) = self.decode(self.draw([request], sampling))
        return remove_padding(drawn, picture.size, anchor)

    def describe(self, pictures: Sequence[Image.Image], sampling: SamplingConfig) -> list[str]:
        return self.ask([((picture,), "Describe the image.") for picture in pictures], sampling)

    def ask(self, questions: Sequence[tuple[Sequence[Image.Image], str]], sampling: SamplingConfig) -> list[str]:
        """An answer in words to each question; its pictures, if any, come before its text."""
        requests = [self._question(pictures, text, number) for number, (pictures, text) in enumerate(questions)]
        answers = self.answer(requests, replace(sampling, max_images=0))
        return [self.text(answer) for answer in answers]

    def answer(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Generation]:
        """Continue each conversation. Guidance uses the prompt without its condition, as it was trained."""
        return self._generator.generate([self._prompt(request, sampling) for request in requests], sampling)

    def text(self, answer: Generation) -> str:
        return self.vocabulary.text.decode(answer.text_ids).strip()

    def encode(self, image_CYX: torch.Tensor) -> Codes:
        """Codes of one picture of floats in [-1, 1], with a batch of one."""
        with torch.inference_mode():
            return self.tokenizer.encode(image_CYX[None].to(self._device))

    def decode(self, codes: Sequence[Codes]) -> list[Image.Image]:
        """Pictures of codes by the tokenizer's own decoder, at the codes' size."""
        with torch.inference_mode():
            return [to_picture(self.tokenizer.decode(one.to(self._device))[0]) for one in codes]

    def enlarge(self, codes: Sequence[Codes], *, steps: int, guidance: float, seed: int) -> list[Image.Image]:
        """Pictures of codes by the diffusion decoder, at twice their size. Raises: ValueError without a decoder."""
        if self.decoder is None:
            raise ValueError("this run has no diffusion decoder; use `decode`, or train one")
        pictures = []
        with torch.inference_mode():
            for number, one in enumerate(codes):
                features = self.tokenizer.code_features(one.to(self._device))
                generator = torch.Generator().manual_seed(seed + number)
                side = self.decoder.config.code_px * self.decoder.config.enlarge
                image = self.decoder.sample(
                    features,
                    height=features.shape[2] * side,
                    width=features.shape[3] * side,
                    steps=steps,
                    guidance=guidance,
                    generator=generator,
                )
                pictures.append(to_picture(image[0]))
        return pictures

    def nearest_anchor(self, size_wh: tuple[int, int]) -> Size:
        """The anchor (height, width) whose aspect is nearest to that of a picture (width, height)."""
        return match_anchor(size_wh[0], size_wh[1], self.reading.anchors).anchor

    def _question(self, pictures: Sequence[Image.Image], text: str, seed: int) -> Request:
        pictures = [as_rgb(picture) for picture in pictures]
        sample = question(text, [self._shown(picture) for picture in pictures])
        sizes = self.reading.sizes
        pixels = [
            input_pixels(picture, input_size(sample, slot, sizes), crop=is_cropped(sample, slot, sizes))
            for slot, picture in enumerate(pictures)
        ]
        return Request(sample=sample, images=tuple(map(torch.from_numpy, pixels)), seed=seed)

    def _shown(self, picture: Image.Image) -> SampleImage:
        """A picture with its anchor, as curation gives it."""
        match = match_anchor(picture.width, picture.height, self.reading.anchors)
        anchor = match.anchor if match.crop_share <= PUBLISHED_MAX_CROP else None
        return SampleImage(width=picture.width, height=picture.height, anchor=anchor)

    def _prompt(self, request: Request, sampling: SamplingConfig) -> Prompt:
        guided = sampling.guidance != 1 and request.resolution is not None
        return Prompt(
            ids=self._ids(request, unconditional=False),
            images=request.images,
            unconditional=Prompt(ids=self._ids(request, unconditional=True), images=request.images[:1])
            if guided
            else None,
            resolution=request.resolution,
            seed=request.seed,
        )

    def _ids(self, request: Request, *, unconditional: bool) -> np.ndarray:
        return render_prompt(
            request.sample,
            tokenizer=self.vocabulary.text,
            vocabulary=self.vocabulary.vision,
            sizes=self.reading.sizes,
            unconditional=unconditional,
        ).ids


def to_picture(image_CYX: torch.Tensor) -> Image.Image:
    """A picture of floats in [-1, 1]."""
    return Image.fromarray(to_levels(image_CYX).permute(1, 2, 0).numpy())


def _drawing(sampling: SamplingConfig) -> SamplingConfig:
    return replace(sampling, force_image=True, stop_after_image=True, max_images=1)
