"""The unified model: a Qwen2 decoder over text tokens, image tokens and projected image features.

Token tables are split at the first image id into two parameters, so that stage 1 trains image rows without gradients
or optimizer state for the text rows.
Letters: B batch, T tokens, D width, V vocabulary rows, M selected positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2Model
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from models.mllm.attention import PACKED_ATTENTION, Documents
from models.mllm.batch import PackedBatch
from models.mllm.config import MllmConfig, TextModelConfig, TokenTableConfig
from models.mllm.loss import chunk_bytes, chunked_cross_entropy, next_tokens
from models.mllm.projector import MixedProjector
from models.mllm.text_model import qwen2_config
from models.mllm.vision import ImageFeatures, VisionBranch, read_images
from models.mllm.vocabulary import PIXEL_FEATURE, SEMANTIC_FEATURE, VisionVocabulary


@dataclass(frozen=True, kw_only=True)
class MllmOutput:
    """`loss_sum` / `trained_tokens` is the mean loss; both are sums, so that they can be summed over a global batch.

    A worker of a sequence group has the sums of its own tokens, but those of the documents over the whole group.
    """

    loss_sum: Tensor  # fp32, weighted
    trained_tokens: Tensor  # fp32: sum of the weights of the trained tokens, their number if all weights are 1
    metrics: dict[str, Tensor] = field(default_factory=dict)  # "<kind>_loss_sum" and "<kind>_tokens", unweighted
    document_sums: Tensor | None = None  # [kinds, documents, 2]: loss and tokens of each document of the batch


KINDS = ("text", "semantic", "pixel")  # of tokens, as `UnifiedMllm` numbers them


class TokenTable(nn.Module):
    """Vectors of all tokens in two parameters: text rows, and image rows followed by the unused rows."""

    def __init__(self, config: TokenTableConfig, hidden_size: int, initializer_range: float) -> None:
        super().__init__()
        self.text = nn.Parameter(torch.empty(config.first_vision_id, hidden_size))
        self.vision = nn.Parameter(torch.empty(config.rows - config.first_vision_id, hidden_size))
        nn.init.normal_(self.text, std=initializer_range)
        nn.init.normal_(self.vision, std=initializer_range)

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        return self.text, self.vision

    def look_up(self, ids_BT: Tensor) -> Tensor:
        """Vectors [B,T,D]; placeholders (negative ids) get the vector of id 0, to be overwritten."""
        first = len(self.text)
        text_BTD = F.embedding(ids_BT.clamp(0, first - 1), self.text)
        vision_BTD = F.embedding((ids_BT - first).clamp(min=0), self.vision)
        return torch.where((ids_BT >= first)[..., None], vision_BTD, text_BTD)

    def scores(self, hidden_MD: Tensor, ids: range) -> Tensor:
        """Scores [M, len(ids)] of a range of ids, without computing the others."""
        first = len(self.text)
        text = self.text[min(ids.start, first) : min(ids.stop, first)]
        vision = self.vision[max(ids.start - first, 0) : max(ids.stop - first, 0)]
        return torch.cat([F.linear(hidden_MD, part) for part in (text, vision) if len(part)], dim=1)


class UnifiedMllm(nn.Module):
    """See the module. `vision` encodes images; without it, batches must contain features."""

    def __init__(self, config: MllmConfig, vision: VisionBranch | None = None) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = vision_vocabulary(config.tokens)
        text = config.text
        self.embedding = TokenTable(config.tokens, text.hidden_size, text.initializer_range)
        self.head = None
        if not text.tie_embeddings:
            self.head = TokenTable(config.tokens, text.hidden_size, text.initializer_range)
        self.language = _decoder(text)
        if config.checkpoint_activations:
            self.language.activation_checkpointing_enable()
        self.projector = MixedProjector(
            semantic_width=config.vision.tower.output_width,
            pixel_width=config.vision.pixel.code_width,
            hidden_size=text.hidden_size,
        )
        self.vision = vision

    def reset_positions(self) -> None:
        """Compute the rotary frequencies, which are in no weights file, after building on the meta device."""
        self.language.rotary_emb = Qwen2RotaryEmbedding(self.language.config)

    @torch.no_grad()
    def scale_residuals(self) -> None:
        """Make what each layer adds to its input smaller, so that the sum of all layers is as large as one.

        Source: Radford et al. 2019 (GPT-2), section 2.3.
        """
        layers = self.language.layers
        for layer in layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight.mul_((2 * len(layers)) ** -0.5)

    @property
    def output_table(self) -> TokenTable:
        return self.embedding if self.head is None else self.head

    def forward(self, batch: PackedBatch) -> MllmOutput:
        plan = batch.planned()
        inputs_BTD = self.embed(batch.ids_BT, self.read(batch), plan.placeholders, plan.chosen_features)
        hidden_BTD = self.decode(inputs_BTD, batch.positions_BT, {"full_attention": plan.documents})
        kinds_M = self._kinds(plan.targets_M)
        weights_M = self._weights(kinds_M)
        loss_sum, losses_M = chunked_cross_entropy(
            hidden_BTD.flatten(0, 1).index_select(0, plan.trained_M),
            self.output_table.parts,
            plan.targets_M,
            weights_M,
            chunk_bytes=chunk_bytes(self.config.loss_chunk_bytes, hidden_BTD.device),
        )
        metrics = {}
        for kind, name in enumerate(KINDS):
            chosen = kinds_M == kind
            metrics[f"{name}_loss_sum"] = (losses_M * chosen).sum()
            metrics[f"{name}_tokens"] = chosen.sum().float()
        documents = None
        if plan.documents_M is not None:
            documents = _document_sums(plan.documents_M, sum(batch.documents), kinds_M, losses_M)
            if plan.documents.group is not None:
                torch.distributed.all_reduce(documents, group=plan.documents.group.process_group)
        return MllmOutput(loss_sum=loss_sum, trained_tokens=weights_M.sum(), metrics=metrics, document_sums=documents)

    def read(self, batch: PackedBatch) -> Sequence[ImageFeatures]:
        """Features of the batch's images: given in the batch, or computed here; no pass for a batch without images.

        The exception: while the vision branch trains on several workers, each of them must take part in every gradient
        exchange, so for a batch without images the smallest image is encoded.
        """
        if batch.features is not None:
            return batch.features
        if batch.images:
            if self.vision is None:
                raise ValueError("batch.images: this model has no vision branch; pass features, or build it with one")
            return read_images(self.vision, batch.images)
        if self.vision is None or not self.training or not torch.distributed.is_initialized():
            return ()
        trains = any(parameter.requires_grad for parameter in self.vision.parameters())
        return [self.vision.empty_features()] if trains else ()

    def embed(
        self,
        ids_BT: Tensor,
        features: Sequence[ImageFeatures],
        placeholders: tuple[int, int] | None = None,
        chosen: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Vectors [B,T,D] of ids and, at the placeholders, of projected features in order of appearance.

        `placeholders`: how many there are of both kinds, semantic first, if that is known on the host. `chosen`: the
        positions of the features that the placeholders stand for, if those are not all (`BatchPlan`).
        Raises: ValueError if the features do not fill the placeholders exactly.
        """
        table_BTD = self.embedding.look_up(ids_BT)
        dtype, device = table_BTD.dtype, table_BTD.device
        widths = self.config.vision.tower.output_width, self.config.vision.pixel.code_width
        # An empty pass keeps the projector in the graph of a batch without images, which data parallelism requires.
        empty = ImageFeatures(*(table_BTD.new_empty(0, width) for width in widths))
        parts = [empty, *features]
        semantic_MD = torch.cat([part.semantic_TD.to(device, dtype) for part in parts])
        pixel_MD = torch.cat([part.pixel_TD.to(device, dtype) for part in parts])
        if chosen is not None:
            semantic_MD, pixel_MD = semantic_MD.index_select(0, chosen[0]), pixel_MD.index_select(0, chosen[1])
        semantic_MD, pixel_MD = self.projector(semantic_MD, pixel_MD)
        for number, (name, placeholder, projected_MD) in enumerate(
            (("semantic", SEMANTIC_FEATURE, semantic_MD), ("pixel", PIXEL_FEATURE, pixel_MD))
        ):
            mask_BT = ids_BT == placeholder
            count = int(mask_BT.sum()) if placeholders is None else placeholders[number]
            if count != len(projected_MD):
                raise ValueError(
                    f"batch: {count} positions for {name} features, but its {len(features)} images have "
                    f"{len(projected_MD)}; images, grids and placeholders must agree"
                )
            table_BTD = table_BTD.masked_scatter(mask_BT[..., None], projected_MD.to(table_BTD.dtype))
        return table_BTD

    def decode(
        self,
        inputs_BTD: Tensor,
        positions_BT: Tensor,
        attention: dict[str, Documents | Tensor],
        cache: object | None = None,
    ) -> Tensor:
        """Hidden states [B,T,D] after the final norm."""
        hidden_BTD: Tensor = self.language(
            inputs_embeds=inputs_BTD,
            position_ids=positions_BT,
            attention_mask=attention,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return hidden_BTD

    def trained_weight(self, labels_BT: Tensor, segments_BT: Tensor) -> float:
        """The value of `MllmOutput.trained_tokens`, without a forward pass."""
        return self.targets_weight(next_tokens(labels_BT, segments_BT).targets_M)

    def targets_weight(self, targets_M: Tensor) -> float:
        """The same from the trained targets (`BatchPlan`)."""
        return float(self._weights(self._kinds(targets_M)).sum())

    def _weights(self, kinds_M: Tensor) -> Tensor:
        weights = self.config.loss_weights
        by_kind = (weights.text, weights.semantic, weights.pixel)
        # Filled there: a copy from the host would wait for the device.
        values = torch.cat([torch.full((1,), value, device=kinds_M.device) for value in by_kind])
        return values[kinds_M]

    def _kinds(self, targets_M: Tensor) -> Tensor:
        """0 text (with markers and tags), 1 semantic code, 2 pixel code."""
        semantic, pixel = self.vocabulary.semantic_range, self.vocabulary.pixel_range
        return (targets_M >= semantic.start).long() + (targets_M >= pixel.start).long()


def _document_sums(documents_M: Tensor, total: int, kinds_M: Tensor, losses_M: Tensor) -> Tensor:
    """[kinds, documents, 2]: the sum of the losses and the number of trained tokens of each document, row by row."""
    sums = losses_M.new_zeros(len(KINDS) * total, 2)
    pairs_M2 = torch.stack([losses_M, torch.ones_like(losses_M)], dim=1)
    return sums.index_add_(0, kinds_M * total + documents_M, pairs_M2).view(len(KINDS), total, 2)


def vision_vocabulary(config: TokenTableConfig) -> VisionVocabulary:
    """The image tokens of a token table. Raises: ValueError if it has fewer rows than the vocabulary has ids."""
    vocabulary = VisionVocabulary(
        first_id=config.first_vision_id,
        semantic_codes=config.semantic_codes,
        pixel_codes=config.pixel_codes,
        resolutions=config.resolutions,
    )
    if config.rows < vocabulary.total:
        raise ValueError(f"tokens.rows: {config.rows} rows for {vocabulary.total} ids; expected at least as many")
    return vocabulary


def _decoder(config: TextModelConfig) -> Qwen2Model:
    """The layers and the final norm of Qwen2, without its token table."""
    model = Qwen2Model(qwen2_config(config, rows=1, attn_implementation=PACKED_ATTENTION))
    model.embed_tokens = nn.Identity()
    return model
