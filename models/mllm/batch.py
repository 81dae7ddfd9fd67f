"""Packed rows, and what the forward pass must know of them on the host.

A GPU computes behind the host; asking it for a number makes the host wait, and the GPU idle afterwards. So all counts
and positions are found once, while the batch is in host memory.
Letters: B batch, T tokens, M trained positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.mllm.attention import Documents, find_documents
from models.mllm.loss import next_tokens
from models.mllm.sequence_parallel import SequenceGroup
from models.mllm.vision import ImageFeatures
from models.mllm.vocabulary import PIXEL_FEATURE, SEMANTIC_FEATURE
from models.transfer import to_device


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Follows from a batch's ids, labels and segments."""

    documents: Documents
    trained_M: Tensor  # int64: positions whose next label is trained, counted through all rows
    targets_M: Tensor  # int64: those labels
    placeholders: tuple[int, int]  # of semantic and of pixel features
    # int64: which positions of the images' features the placeholders stand for, semantic and pixel; None: all.
    chosen_features: tuple[Tensor, Tensor] | None = None
    documents_M: Tensor | None = None  # int64: the document of each, counted through all rows; None: not wanted

    def to(self, device: torch.device | str) -> "BatchPlan":
        chosen = self.chosen_features
        return replace(
            self,
            chosen_features=chosen and (to_device(chosen[0], device), to_device(chosen[1], device)),
            documents=self.documents.to(device),
            trained_M=to_device(self.trained_M, device),
            targets_M=to_device(self.targets_M, device),
            documents_M=None if self.documents_M is None else to_device(self.documents_M, device),
        )


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Rows of packed documents.

    `positions_BT` restart at 0 in each document; `segments_BT` number the documents of a row from 1, 0 is padding;
    `labels_BT` holds the id at the same position, or -100 where it is not trained.

    Images [C,Y,X] in [-1, 1], or their features if those are computed elsewhere, are in the order in which their
    placeholders appear, row by row.
    """

    ids_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor
    images: Sequence[Tensor] = ()
    features: Sequence[ImageFeatures] | None = None
    documents: tuple[int, ...] = ()  # in each row, if the losses of each document are wanted
    plan: BatchPlan | None = None  # None: made where it is needed, which on a GPU waits for it

    def planned(self) -> BatchPlan:
        return self.plan or plan_batch(self.ids_BT, self.labels_BT, self.segments_BT, self.documents)

    def to(self, device: torch.device | str) -> "PackedBatch":
        """On `device`, with its plan."""
        features = self.features
        if features is not None:
            features = [ImageFeatures(*(to_device(part, device) for part in image)) for image in features]
        return PackedBatch(
            ids_BT=to_device(self.ids_BT, device),
            labels_BT=to_device(self.labels_BT, device),
            positions_BT=to_device(self.positions_BT, device),
            segments_BT=to_device(self.segments_BT, device),
            images=[to_device(image, device) for image in self.images],
            features=features,
            documents=self.documents,
            plan=self.planned().to(device),
        )


def plan_batch(ids_BT: Tensor, labels_BT: Tensor, segments_BT: Tensor, documents: tuple[int, ...] = ()) -> BatchPlan:
    """`documents`: in each row, if the losses of each document are wanted."""
    trained = next_tokens(labels_BT, segments_BT)
    rows, columns = trained.positions_BT.nonzero(as_tuple=True)
    before_B = torch.tensor([0, *documents[:-1]], device=rows.device).cumsum(0)
    return BatchPlan(
        documents=find_documents(segments_BT),
        trained_M=rows * ids_BT.shape[1] + columns,
        targets_M=trained.targets_M,
        documents_M=before_B[rows] + segments_BT[rows, columns] - 1 if documents else None,
        placeholders=(int((ids_BT == SEMANTIC_FEATURE).sum()), int((ids_BT == PIXEL_FEATURE).sum())),
    )


def part_of_rows(batch: PackedBatch, group: SequenceGroup, counts: Sequence[tuple[int, int]]) -> PackedBatch:
    """The tokens of every row that this worker of a group holds, and the images that have features among them.

    `counts`: of each image of the batch, how many semantic and how many pixel features it has. The targets are those
    of the tokens held here; the documents of the plan are those of whole rows, which attention sees.
    """
    plan, row_tokens = batch.planned(), batch.ids_BT.shape[1]
    held = group.columns(row_tokens)
    rows_M, columns_M = plan.trained_M // row_tokens, plan.trained_M % row_tokens - held.start
    held_M = (columns_M >= 0) & (columns_M < len(held))
    trained_M = rows_M * len(held) + columns_M
    semantic, pixel = (
        _held_features(batch.ids_BT == placeholder, held, [count[kind] for count in counts])
        for kind, placeholder in enumerate((SEMANTIC_FEATURE, PIXEL_FEATURE))
    )
    images = sorted(semantic.images | pixel.images)
    columns = slice(held.start, held.stop)
    return PackedBatch(
        ids_BT=batch.ids_BT[:, columns],
        labels_BT=batch.labels_BT[:, columns],
        positions_BT=batch.positions_BT[:, columns],
        segments_BT=batch.segments_BT[:, columns],
        images=[batch.images[image] for image in images] if batch.images else (),
        features=None if batch.features is None else [batch.features[image] for image in images],
        documents=batch.documents,
        plan=replace(
            plan,
            documents=plan.documents.shared_by(group),
            trained_M=trained_M[held_M],
            targets_M=plan.targets_M[held_M],
            documents_M=None if plan.documents_M is None else plan.documents_M[held_M],
            placeholders=(int(semantic.held.sum()), int(pixel.held.sum())),
            chosen_features=(semantic.of_images(images), pixel.of_images(images)),
        ),
    )


@dataclass(frozen=True)
class _Features:
    """Of one kind, of all images, one after the other."""

    image: Tensor  # int64: of each
    held: Tensor  # bool: whether its placeholder is among the tokens of this worker

    @property
    def images(self) -> set[int]:
        return set(self.image[self.held].tolist())

    def of_images(self, images: Sequence[int]) -> Tensor:
        """Which of the features of these images are held."""
        return self.held[torch.isin(self.image, torch.tensor(images, dtype=torch.int64))].nonzero().flatten()


def _held_features(placeholders_BT: Tensor, held: range, counts: Sequence[int]) -> _Features:
    columns = placeholders_BT.nonzero()[:, 1]
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    assert len(image) == len(columns), f"{len(columns)} placeholders for {len(image)} features"
    return _Features(image, (columns >= held.start) & (columns < held.stop))
