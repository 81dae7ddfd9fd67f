"""Denied requests, newest first."""

from dataclasses import dataclass

from orchestrator.web.service import Service
from orchestrator.web.sign_in.denials import Denial, Denials

MAX_SHOWN = 500


@dataclass(frozen=True, kw_only=True)
class DeniedView:
    denied: tuple[Denial, ...]


def load_denied(service: Service) -> DeniedView:
    return DeniedView(denied=tuple(Denials(folder=service.settings.folder).newest(MAX_SHOWN)))
