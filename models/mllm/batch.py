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
    documents_M: Tensor | None = None  # int64: the document of each, counted through all rows; None: not wanted

    def to(self, device: torch.device | str) -> "BatchPlan":
        return replace(
            self,
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
