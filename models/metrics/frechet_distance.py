"""Mean and covariance of features, collected in parts, and the Frechet distance of two Gaussians (FID).

Letters: N samples, D features, K directions that the samples span.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FeatureStatistics:
    """Mean and scatter of any number of samples; fp64, on the CPU. Parts can be merged in any grouping."""

    count: int
    mean_D: Tensor
    scatter_DD: Tensor  # sum of outer products of deviations from the mean

    @staticmethod
    def of(features_ND: Tensor) -> "FeatureStatistics":
        features = features_ND.detach().double().cpu()
        mean = features.mean(dim=0) if len(features) else features.new_zeros(features.shape[1])
        centred = features - mean
        return FeatureStatistics(count=len(features), mean_D=mean, scatter_DD=centred.T @ centred)

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of both sets together (Chan, Golub and LeVeque 1979, equation 2.1)."""
        count = self.count + other.count
        if count == 0:
            return self
        shift = other.mean_D - self.mean_D
        weight = self.count * other.count / count
        return FeatureStatistics(
            count=count,
            mean_D=self.mean_D + shift * (other.count / count),
            scatter_DD=self.scatter_DD + other.scatter_DD + weight * torch.outer(shift, shift),
        )

    def covariance(self) -> Tensor:
        """[D, D], unbiased (n - 1). Raises: ValueError for fewer than two samples."""
        if self.count < 2:
            raise ValueError(f"covariance of {self.count} samples; at least two are needed")
        return self.scatter_DD / (self.count - 1)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2), at least 0.

    Source: Heusel et al., arXiv 1706.08500, equation 6. The trace of the root is taken from the eigenvalues of
    C1^1/2 C2 C1^1/2, which are those of C1 C2 and real. Few samples make it too large: below about 10,000 compare
    only distances of equal numbers of samples.
    """
    covariances = first.covariance(), second.covariance()
    values, vectors = torch.linalg.eigh(covariances[0])
    # Few samples span few directions: the others are rounding noise around zero, and cost a second large matrix.
    spanned = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    root_DK = vectors[:, spanned] * values[spanned].sqrt()
    product = root_DK.T @ covariances[1] @ root_DK
    trace_of_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (first.mean_D - second.mean_D).square().sum()
    distance = distance + covariances[0].trace() + covariances[1].trace() - 2 * trace_of_root
    return max(0.0, float(distance))
