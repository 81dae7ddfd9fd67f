"""Denied requests, for administrators."""

from dataclasses import dataclass

from orchestrator.web.page import Page
from orchestrator.web.service import Service
from orchestrator.web.sign_in.users import Role
from orchestrator.web.views.denied import DeniedView, load_denied


@dataclass(frozen=True, kw_only=True)
class DeniedQuery:
    pass


def _load(service: Service, _query: DeniedQuery) -> DeniedView:
    return load_denied(service)


DENIED = Page(
    name="denied",
    path="/denied",
    query=DeniedQuery,
    view=DeniedView,
    load=_load,
    summary="Denied requests, newest first.",
    role=Role.ADMIN,
)
