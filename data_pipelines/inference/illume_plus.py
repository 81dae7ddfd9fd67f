"""Inference with a trained ILLUME+: generate, edit, describe and answer, from a notebook or a stage.

Images are PIL images in and out; sizes are (height, width). Legend: B batch, C channels, Y X pixel rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data_pipelines.datasets.samples import Sample, SampleImage
from data_pipelines.images.model_input import grids, input_pixels, input_size, is_cropped, pixels_to_input
from data_pipelines.inference.image_tokenizer import to_image
from data_pipelines.inference.input_settings import ModelInput, load_input
from data_pipelines.tokens.conversations import editing_request, generation_request, question, render_prompt
from data_pipelines.tokens.vocabulary import Vocabulary, load_vocabulary
from models.diffusion.decoder import DiffusionDecoder
from models.diffusion.weights import load as load_decoder
from models.dualvitok.geometry import PUBLISHED_MAX_CROP, Size, as_rgb, match_anchor, pad_to_anchor, remove_padding
from models.dualvitok.model import Codes, DualViTok
from models.dualvitok.weights import load as load_tokenizer
from models.mllm.config import SamplingConfig
from models.mllm.generation import Generation, Generator, Prompt
from models.mllm.grammar import Rules
from models.mllm.model import UnifiedMllm
from models.mllm.weights import load as load_mllm


@dataclass(frozen=True, kw_only=True)
class Request:
    """A conversation to continue, with the images of its input slots, ready for the model."""

    sample: Sample
    images: tuple[torch.Tensor, ...] = ()  # CYX in [-1, 1]
    resolution: Size | None = None  # of the image to generate
    seed: int = 0


class IllumePlus:
    """The models of a finished run. `decoder` is optional: without it images have the size of the codes."""

    def __init__(
        self,
        *,
        tokenizer: DualViTok,
        mllm: UnifiedMllm,
        vocabulary: Vocabulary,
        model_input: ModelInput,
        decoder: DiffusionDecoder | None = None,
    ) -> None:
        self.tokenizer, self.vocabulary, self.model_input, self.decoder = tokenizer, vocabulary, model_input, decoder
        factor = tokenizer.pixel_factor
        rules = Rules(
            vocabulary=vocabulary.vision,
            semantic_grid=lambda height, width: grids((height, width), factor)[0],
            pixel_grid=lambda height, width: grids((height, width), factor)[1],
            end_id=vocabulary.text.im_end_id,
            resolutions=model_input.anchors,
        )
        self._generator = Generator(mllm, rules)
        self._device = next(mllm.parameters()).device

    @staticmethod
    def load(tokenizer: Path, mllm: Path, decoder: Path | None = None, *, device: str = "cpu") -> "IllumePlus":
        """Load the models from the folders of the artifacts `tokenizer@1`, `mllm@1` and `decoder@1`."""
        return IllumePlus(
            tokenizer=load_tokenizer(tokenizer, device),
            mllm=load_mllm(mllm, device),
            vocabulary=load_vocabulary(mllm),
            model_input=load_input(mllm),
            decoder=load_decoder(decoder, device) if decoder is not None else None,
        )

    def generate(
        self, prompts: Sequence[str], size: Size, sampling: SamplingConfig, *, first_seed: int = 0
    ) -> list[Codes]:
        """The codes of one image of `size` per prompt; seeds count up from `first_seed` in the order of the list."""
        requests = [
            Request(sample=generation_request(prompt, size), resolution=size, seed=seed)
            for seed, prompt in enumerate(prompts, start=first_seed)
        ]
        return self.draw(requests, sampling)

    def draw(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Codes]:
        """The codes of the image that answers each request."""
        return [answer.images[0] for answer in self.answer(requests, _image_sampling(sampling))]

    def edit(self, image: Image.Image, instruction: str, sampling: SamplingConfig) -> Image.Image:
        """The edited image, in its original size; white padding to the anchor is removed again (facts 3)."""
        anchor = self.nearest_anchor(image.size)
        padded = pad_to_anchor(as_rgb(image), anchor)
        request = Request(
            sample=editing_request(instruction, anchor),
            images=(torch.from_numpy(pixels_to_input(np.asarray(padded))),),
            resolution=anchor,
        )
        (drawn,) = self.decode(self.draw([request], sampling))
        return remove_padding(drawn, image.size, anchor)

    def describe(self, images: Sequence[Image.Image], sampling: SamplingConfig) -> list[str]:
        return self.ask([((image,), "Describe the image.") for image in images], sampling)

    def ask(self, questions: Sequence[tuple[Sequence[Image.Image], str]], sampling: SamplingConfig) -> list[str]:
        """A text answer to each question; the images of a question, if any, come before its text."""
        requests = [self._question(images, text, number) for number, (images, text) in enumerate(questions)]
        answers = self.answer(requests, replace(sampling, max_images=0))
        return [self.text(answer) for answer in answers]

    def answer(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Generation]:
        """Continue each conversation. Guidance uses the prompt without its condition, as in training."""
        return self._generator.generate([self._prompt(request, sampling) for request in requests], sampling)

    def text(self, answer: Generation) -> str:
        return self.vocabulary.text.decode(answer.text_ids).strip()

    def encode(self, image_CYX: torch.Tensor) -> Codes:
        """The codes of an image of floats in [-1, 1], as a batch of one."""
        with torch.inference_mode():
            return self.tokenizer.encode(image_CYX[None].to(self._device))

    def decode(self, codes: Sequence[Codes]) -> list[Image.Image]:
        """Decode codes to images with the tokenizer's own decoder, at the size of the codes."""
        with torch.inference_mode():
            return [to_image(self.tokenizer.decode(image_codes.to(self._device))[0]) for image_codes in codes]

    def enlarge(self, codes: Sequence[Codes], *, steps: int, guidance: float, seed: int) -> list[Image.Image]:
        """Decode codes to images of twice their size with the diffusion decoder. Raises: ValueError without one."""
        if self.decoder is None:
            raise ValueError("this run has no diffusion decoder; use `decode`, or train one")
        images = []
        with torch.inference_mode():
            for number, image_codes in enumerate(codes):
                features = self.tokenizer.code_features(image_codes.to(self._device))
                generator = torch.Generator().manual_seed(seed + number)
                side = self.decoder.config.code_px * self.decoder.config.enlarge
                image_BCYX = self.decoder.sample(
                    features,
                    height=features.shape[2] * side,
                    width=features.shape[3] * side,
                    steps=steps,
                    guidance=guidance,
                    generator=generator,
                )
                images.append(to_image(image_BCYX[0]))
        return images

    def nearest_anchor(self, size_wh: tuple[int, int]) -> Size:
        """The anchor (height, width) whose aspect ratio is nearest to that of an image (width, height)."""
        return match_anchor(size_wh[0], size_wh[1], self.model_input.anchors).anchor

    def _question(self, images: Sequence[Image.Image], text: str, seed: int) -> Request:
        images = [as_rgb(image) for image in images]
        sample = question(text, [self._sample_image(image) for image in images])
        sizes = self.model_input.sizes
        pixels = [
            input_pixels(image, input_size(sample, slot, sizes), crop=is_cropped(sample, slot, sizes))
            for slot, image in enumerate(images)
        ]
        return Request(sample=sample, images=tuple(map(torch.from_numpy, pixels)), seed=seed)

    def _sample_image(self, image: Image.Image) -> SampleImage:
        """The size and anchor of an image, as curation chooses it."""
        match = match_anchor(image.width, image.height, self.model_input.anchors)
        anchor = match.anchor if match.crop_share <= PUBLISHED_MAX_CROP else None
        return SampleImage(width=image.width, height=image.height, anchor=anchor)

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
            sizes=self.model_input.sizes,
            unconditional=unconditional,
        ).ids


def _image_sampling(sampling: SamplingConfig) -> SamplingConfig:
    return replace(sampling, force_image=True, stop_after_image=True, max_images=1)
