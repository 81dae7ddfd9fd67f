"""Models that say something about pictures: how well words fit, what class they are of, how pleasing they look.

Any model of transformers that comes as a folder with `config.json`, safetensors and its own preparation of pictures.
Nothing in such a folder is run as code, and nothing is fetched.
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

Floats = npt.NDArray[np.float32]
Prepared = Mapping[str, torch.Tensor]  # what a model takes for one picture, batch size 1
NEVER_FOREIGN: Mapping[str, bool] = {"local_files_only": True, "trust_remote_code": False}


class ScorerError(ValueError):
    """A model's files that are not what their scorer needs."""


class Scorer(Protocol):
    """A loaded model. `prepare` runs in threads, one picture at a time, so that no batch can change its result."""

    def prepare(self, picture: Image.Image) -> Prepared: ...
    def look(self, batch: Sequence[Prepared]) -> Floats:
        """What the model makes of the pictures [B, D]; all that is kept of them."""

    def scores(self, looks_BD: Floats, captions: Sequence[str]) -> Floats:
        """A number for each look and its caption [B]; not a number: there is nothing to tell it from."""


class _Preparation:
    """The way in which a model's folder says that pictures are made ready for it."""

    def __init__(self, folder: Path) -> None:
        # The PIL backend gives equal pixels on every machine, whether torchvision is installed or not.
        self._processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **NEVER_FOREIGN)

    def prepare(self, picture: Image.Image) -> Prepared:
        return dict(self._processor(images=[picture], return_tensors="pt"))


class _Features(_Preparation):
    """A CLIP-like model: pictures and words as directions in one space."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        super().__init__(folder)
        self._model = _load(AutoModel, folder, device, dtype, has="get_image_features")

    def look(self, batch: Sequence[Prepared]) -> Floats:
        with torch.inference_mode():
            return _directions(self._model.get_image_features(**_stacked(batch, self._model)))


class Similarity(_Features):
    """How well the caption fits the picture: the cosine of their directions, -1..1."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        super().__init__(folder, device, dtype)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **NEVER_FOREIGN)
        limit = self._model.config.text_config.max_position_embeddings
        self._max_tokens = min(int(limit), int(self._tokenizer.model_max_length))
        self.width = self._read([""]).shape[1]  # of its features

    def scores(self, looks_BD: Floats, captions: Sequence[str]) -> Floats:
        cosines = np.einsum("bd,bd->b", looks_BD, self._read(captions)).astype(np.float32)
        said = np.array([bool(caption.strip()) for caption in captions])
        return np.where(said, cosines.clip(-1, 1), np.float32(np.nan))

    def _read(self, captions: Sequence[str]) -> Floats:
        # Always to full length: SigLIP learnt so, and equal lengths keep a caption's score apart from its neighbours'.
        tokens = self._tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        with torch.inference_mode():
            return _directions(self._model.get_text_features(**tokens.to(self._model.device)))


class Aesthetic(_Features):
    """A linear head on the direction of a picture; its scale is that of the ratings which the head has learnt."""

    def __init__(self, folder: Path, head: Path, device: str, dtype: torch.dtype) -> None:
        super().__init__(folder, device, dtype)
        self._weight_D, self._bias = _linear_head(head)

    def scores(self, looks_BD: Floats, captions: Sequence[str]) -> Floats:
        if looks_BD.shape[1] != len(self._weight_D):
            raise ScorerError(
                f"the head takes {len(self._weight_D)} features, but the model gives {looks_BD.shape[1]}; give the "
                "head that was trained on this model"
            )
        return (looks_BD @ self._weight_D + self._bias).astype(np.float32)


class Classifier(_Preparation):
    """The probability of one label, 0..1."""

    def __init__(self, folder: Path, label: str, device: str, dtype: torch.dtype) -> None:
        super().__init__(folder)
        self._model = _load(AutoModelForImageClassification, folder, device, dtype)
        labels = {str(name): int(number) for number, name in self._model.config.id2label.items()}
        if label not in labels:
            raise ScorerError(f"{folder}: no label {label!r}; expected one of {', '.join(sorted(labels))}")
        self._label = labels[label]
        # Labels that do not exclude one another, or a single one, have a probability each.
        self._each = self._model.config.problem_type == "multi_label_classification" or len(labels) == 1

    def look(self, batch: Sequence[Prepared]) -> Floats:
        with torch.inference_mode():
            scores_BK = self._model(**_stacked(batch, self._model)).logits.float()
        shares_BK = scores_BK.sigmoid() if self._each else scores_BK.softmax(-1)
        return shares_BK[:, self._label : self._label + 1].cpu().numpy()

    def scores(self, looks_BD: Floats, captions: Sequence[str]) -> Floats:
        return looks_BD[:, 0]


def _load(kind: Any, folder: Path, device: str, dtype: torch.dtype, *, has: str = "forward") -> Any:
    """The model, every weight of it from the folder; `has`: what such models have in common. Raises: ScorerError."""
    try:
        model, found = kind.from_pretrained(
            folder, use_safetensors=True, dtype=dtype, output_loading_info=True, **NEVER_FOREIGN
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ScorerError(f"{folder}: cannot be loaded as {kind.__name__}: {error}") from error
    if not callable(getattr(model, has, None)):
        raise ScorerError(
            f"{folder}: a {type(model).__name__}, which gives no features of pictures; expected a model like CLIP or "
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
    joined = {name: torch.cat([one[name] for one in batch]).to(model.device) for name in batch[0]}
    return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in joined.items()}


def _directions(output: Any) -> Floats:
    """Features of length 1 [B, D]; transformers 5 hands them back among other outputs, some models by themselves."""
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
