"""Images of datasets as small JPEGs that are encoded anew: whatever an original is, a browser gets only these."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from orchestrator.errors import OrchestratorError
from orchestrator.history.made_artifacts import made_artifacts
from orchestrator.web.page import BadRequestError, NotFoundError, whole_number
from orchestrator.web.service import Service
from orchestrator.web.views.datasets import key_of, stage_kinds_of

SIDE = 256  # pixels of the longer side
MAX_SPAN_BYTES = 256 << 20
FOR_A_DAY = "private, max-age=86400, immutable"  # a dataset never changes, but may be taken down


def image_routes() -> list[BaseRoute]:
    return [Route("/datasets/{fingerprint}/pictures", sample_image, name="sample image")]


def sample_image(request: Request) -> Response:
    """One image of a sample. Raises: NotFoundError: it does not exist (any more), or cannot be decoded."""
    from data_pipelines.datasets.reader import CuratedDataset, DatasetError  # late: loads what decodes images
    from data_pipelines.datasets.samples import SampleError
    from data_pipelines.images.limits import DecodeLimits
    from data_pipelines.images.resizing import thumbnail

    service: Service = request.app.state.service
    workspace = service.workspace()
    fingerprint, shard = request.path_params["fingerprint"], request.query_params.get("shard", "")
    offset, span, slot = (_number(request, name) for name in ("offset", "span", "slot"))
    kinds = stage_kinds_of(service.settings.kinds)
    made = made_artifacts(workspace.database, kinds, text=fingerprint, limit=1)
    if not made or made[0].fingerprint != fingerprint or not 0 < span <= MAX_SPAN_BYTES:
        raise NotFoundError(f"dataset {fingerprint[:12]}: not found")
    try:
        dataset = CuratedDataset(workspace.artifacts.open(key_of(made[0])).path)
        if shard not in dataset.shards:
            raise NotFoundError(f"dataset {fingerprint[:12]}: has no shard {shard!r}")
        data = dataset.read(shard, offset, span).image_bytes(slot)
    except (DatasetError, SampleError, OrchestratorError, IndexError, OSError) as error:
        raise NotFoundError(f"dataset {fingerprint[:12]}: no such image: {error}") from error
    small = thumbnail(data, SIDE, DecodeLimits())
    if small is None:
        raise NotFoundError(f"dataset {fingerprint[:12]}: an image that cannot be decoded")
    return Response(small, media_type="image/jpeg", headers={"Cache-Control": FOR_A_DAY})


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    try:
        return whole_number(text)
    except ValueError:
        raise BadRequestError(f"address: {name}: found {text[:80]!r}, expected a number") from None
