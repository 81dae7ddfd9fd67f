"""Streams of server-sent events: how many may be open, and their end."""

import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from functools import partial

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from orchestrator.web.sign_in.users import User

MAX_STREAMS = 200  # of all kinds together
MAX_OF_ONE = 100  # of one user, so that nobody takes them all
RETRY_S = 10
MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # a proxy must not hold events back


@dataclass(kw_only=True)
class OpenStreams:
    """Counts the open streams. A place is taken before a stream begins, and given back when it ends. Thread-safe."""

    by_user: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, who: str) -> bool:
        """Take a place; False: there is none."""
        with self._lock:
            if self.by_user.total() >= MAX_STREAMS or self.by_user[who] >= MAX_OF_ONE:
                return False
            self.by_user[who] += 1
            return True

    def leave(self, who: str) -> None:
        with self._lock:
            self.by_user[who] -= 1
            if not self.by_user[who]:
                del self.by_user[who]


def event_stream(request: Request, lines: AsyncGenerator[str, None]) -> Response:
    """The response that sends `lines` until they end, or the page is closed. HEAD gets what GET would begin with."""
    if request.method == "HEAD":
        return Response(media_type=MEDIA_TYPE, headers=HEADERS)
    streams: OpenStreams = request.app.state.streams
    user: User = request.state.user
    who = user.name or user.address
    if not streams.enter(who):
        text = f"too many streams are open; try again in {RETRY_S} s, or close pages that follow something\n"
        return Response(text, status_code=503, headers={"Retry-After": str(RETRY_S)}, media_type="text/plain")
    return _EventStream(lines, on_end=partial(streams.leave, who))


class _EventStream(StreamingResponse):
    def __init__(self, lines: AsyncGenerator[str, None], *, on_end: Callable[[], None]) -> None:
        super().__init__(lines, media_type=MEDIA_TYPE, headers=HEADERS)
        self._lines, self._on_end = lines, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()
            await self._lines.aclose()  # now, not when it is collected: it holds a place in a feed
