"""Models that score images: similarity to a caption, probability of a class, aesthetic rating.

A model is a folder in the layout of transformers with `config.json`, safetensors and an image processor. No code from
the folder is run, and nothing is downloaded.
Legend: B batch, D width of a model's features, C channels, Y X pixel rows and columns.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoTokenizer

from models.errors import DataError

Floats = npt.NDArray[np.float32]
Prepared = Mapping[str, torch.Tensor]  # model input of one image, batch size 1
LOCAL_ONLY: Mapping[str, bool] = {"local_files_only": True, "trust_remote_code": False}


class ScorerError(DataError):
    """The files of a model do not fit its scorer."""


class Scorer(Protocol):
    """A loaded model. `prepare` runs in threads, one image at a time, so that no batch can change its result."""

    def prepare(self, image: Image.Image) -> Prepared: ...
    def extract_features(self, batch: Sequence[Prepared]) -> Floats:
        """Features of the images [B, D], from which `scores` computes the scores."""

    def scores(self, features_BD: Floats, captions: Sequence[str]) -> Floats:
        """The score of each image, given its features and caption [B]; NaN if there is none."""


class _ImageProcessor:
    """Prepares images with the processor in the model's folder."""

    def __init__(self, folder: Path) -> None:
        # The PIL backend gives equal pixels on every machine, whether torchvision is installed or not.
        self._processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **LOCAL_ONLY)

    def prepare(self, image: Image.Image) -> Prepared:
        return dict(self._processor(images=[image], return_tensors="pt"))


class _ClipModel(_ImageProcessor):
    """A CLIP-like model: embeds images and texts as unit vectors in one space."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        super().__init__(folder)
        self._model = _load(AutoModel, folder, device, dtype, has="get_image_features")

    def extract_features(self, batch: Sequence[Prepared]) -> Floats:
        with torch.inference_mode():
            return _unit_features(self._model.get_image_features(**_stacked(batch, self._model)))


class Similarity(_ClipModel):
    """Similarity of caption and image: the cosine of their features, -1..1; NaN without a caption."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        super().__init__(folder, device, dtype)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL_ONLY)
        limit = self._model.config.text_config.max_position_embeddings
        self._max_tokens = min(int(limit), int(self._tokenizer.model_max_length))
        self.width = self._text_features([""]).shape[1]  # of its features

    def scores(self, features_BD: Floats, captions: Sequence[str]) -> Floats:
        cosines = np.einsum("bd,bd->b", features_BD, self._text_features(captions)).astype(np.float32)
        has_caption = np.array([bool(caption.strip()) for caption in captions])
        return np.where(has_caption, cosines.clip(-1, 1), np.float32(np.nan))

    def _text_features(self, captions: Sequence[str]) -> Floats:
        # Padded to full length: SigLIP was trained so, and a caption's score then does not depend on its neighbours.
        tokens = self._tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        with torch.inference_mode():
            return _unit_features(self._model.get_text_features(**tokens.to(self._model.device)))


class Aesthetic(_ClipModel):
    """A linear head on the unit features of an image, on the scale of the ratings that the head was trained on."""

    def __init__(self, folder: Path, head: Path, device: str, dtype: torch.dtype) -> None:
        super().__init__(folder, device, dtype)
        self._weight_D, self._bias = _linear_head(head)

    def scores(self, features_BD: Floats, captions: Sequence[str]) -> Floats:
        if features_BD.shape[1] != len(self._weight_D):
            raise ScorerError(
                f"the head takes {len(self._weight_D)} features, but the model gives {features_BD.shape[1]}; give the "
                "head that was trained on this model"
            )
        return (features_BD @ self._weight_D + self._bias).astype(np.float32)


class Classifier(_ImageProcessor):
    """The probability of one label, 0..1."""

    def __init__(self, folder: Path, label: str, device: str, dtype: torch.dtype) -> None:
        super().__init__(folder)
        self._model = _load(AutoModelForImageClassification, folder, device, dtype)
        labels = {str(name): int(number) for number, name in self._model.config.id2label.items()}
        if label not in labels:
            raise ScorerError(f"{folder}: no label {label!r}; expected one of {', '.join(sorted(labels))}")
        self._label = labels[label]
        # Labels that do not exclude one another, or a single label, have independent probabilities.
        self._independent = self._model.config.problem_type == "multi_label_classification" or len(labels) == 1

    def extract_features(self, batch: Sequence[Prepared]) -> Floats:
        with torch.inference_mode():
            scores_BK = self._model(**_stacked(batch, self._model)).logits.float()
        shares_BK = scores_BK.sigmoid() if self._independent else scores_BK.softmax(-1)
        return shares_BK[:, self._label : self._label + 1].cpu().numpy()

    def scores(self, features_BD: Floats, captions: Sequence[str]) -> Floats:
        return features_BD[:, 0]


def _load(kind: Any, folder: Path, device: str, dtype: torch.dtype, *, has: str = "forward") -> Any:
    """The model, all weights from the folder; `has`: method that it must have. Raises: ScorerError."""
    try:
        model, found = kind.from_pretrained(
            folder, use_safetensors=True, dtype=dtype, output_loading_info=True, **LOCAL_ONLY
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ScorerError(f"{folder}: cannot be loaded as {kind.__name__}: {error}") from error
    if not callable(getattr(model, has, None)):
        raise ScorerError(
            f"{folder}: a {type(model).__name__}, which gives no features of images; expected a model like CLIP or "
            "SigLIP"
        )
    absent = sorted([*map(str, found["missing_keys"]), *map(str, found["mismatched_keys"])])
    if absent:
        raise ScorerError(
            f"{folder}: {len(absent)} weights of the {type(model).__name__} are not in its files or of another shape, "
            f"the first is {absent[0]}; they would be random"
        )
    return model.to(device).eval()


def _stacked(batch: Sequence[Prepared], model: Any) -> dict[str, torch.Tensor]:
    joined = {name: torch.cat([prepared[name] for prepared in batch]).to(model.device) for name in batch[0]}
    return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in joined.items()}


def _unit_features(output: Any) -> Floats:
    """Features of length 1 [B, D]. Transformers 5 returns them among other outputs, some models on their own."""
    features_BD = output if isinstance(output, torch.Tensor) else output.pooler_output
    return F.normalize(features_BD.float(), dim=-1).cpu().numpy()


def _linear_head(file: Path) -> tuple[Floats, float]:
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ScorerError(f"{file}: no safetensors that can be read ({error})") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    weight = tensors.get("weight")
    if shapes.keys() != {"weight", "bias"} or weight is None or weight.ndim != 2 or weight.shape[0] != 1:
        raise ScorerError(f"{file}: found {shapes}, expected weight [1, D] and bias [1]")
    if shapes["bias"] != (1,):
        raise ScorerError(f"{file}: found a bias of shape {shapes['bias']}, expected [1]")
    return weight[0].float().numpy(), float(tensors["bias"][0])
