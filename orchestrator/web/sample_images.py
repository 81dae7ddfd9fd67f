"""Images of datasets as small JPEGs that are encoded anew: whatever an original is, a browser gets only these."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from orchestrator.web.page import BadRequestError, NotFoundError, whole_number
from orchestrator.web.views.samples import open_dataset, read_image

SIDE = 256  # pixels of the longer side
FOR_A_DAY = "private, max-age=86400, immutable"  # a dataset never changes, but may be taken down


def image_routes() -> list[BaseRoute]:
    return [Route("/datasets/{fingerprint}/pictures", sample_image, name="sample image")]


def sample_image(request: Request) -> Response:
    """One image of a sample. Raises: NotFoundError: it does not exist (any more), or cannot be decoded."""
    from data_pipelines.images.limits import DecodeLimits  # late: loads what decodes images
    from data_pipelines.images.resizing import thumbnail

    offset, span, slot = (_number(request, name) for name in ("offset", "span", "slot"))
    dataset = open_dataset(request.app.state.service, request.path_params["fingerprint"])
    data = read_image(dataset, request.query_params.get("shard", ""), offset, span, slot)
    small = thumbnail(data, SIDE, DecodeLimits())
    if small is None:
        raise NotFoundError(f"dataset {request.path_params['fingerprint'][:12]}: an image that cannot be decoded")
    return Response(small, media_type="image/jpeg", headers={"Cache-Control": FOR_A_DAY})


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    try:
        return whole_number(text)
    except ValueError:
        raise BadRequestError(f"address: {name}: found {text[:80]!r}, expected a number") from None
