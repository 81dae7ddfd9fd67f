"""A store in memory that counts requests and says how long they would have taken, without waiting for them.

A request takes 30 ms, a page of a listing has 1,000 objects, a deletion of many takes one request for 1,000. Requests
of the main thread follow one another; those of other threads run `REQUESTS` at a time.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from orchestrator.backends.objects import StoredObject
from orchestrator.backends.parallel import REQUESTS
from tests.orchestrator.conftest import MemoryStore

REQUEST_S = 0.03
PAGE = 1000
DEPTH = 3  # of the folders that objects are kept by, e.g. shards/<kind>/<two digits>


@dataclass
class PricedStore(MemoryStore):
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # by what, and "alone" or "parallel"
    modified_s: float = 0.0  # of every object
    _folders: dict[str, dict[str, bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def seconds(self) -> float:
        alone = sum(count for (_, how), count in self.requests.items() if how == "alone")
        return REQUEST_S * (alone + (sum(self.requests.values()) - alone) / REQUESTS)

    def count(self, what: str) -> int:
        return sum(count for (name, _), count in self.requests.items() if name == what)

    def forget(self) -> None:
        self.requests.clear()

    def put_new(self, key: str, data: bytes) -> bool:
        self._pay("put")
        with self._lock:
            return self._objects(key).setdefault(key, data) is data

    def get(self, key: str) -> bytes | None:
        self._pay("get")
        return self._objects(key).get(key)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        with self._lock:
            found = sorted(self._below(prefix))
        self._pay("list", 1 + len(found) // PAGE)
        for key in found:
            yield StoredObject(key=key, bytes=len(self._objects(key)[key]), modified_s=self.modified_s)

    def folders(self, prefix: str) -> tuple[str, ...]:
        self._pay("list")
        with self._lock:
            rests = [key[len(prefix) + 1 :] for key in self._below(prefix)]
        return tuple(sorted({rest.split("/")[0] for rest in rests if "/" in rest}))

    def delete(self, key: str) -> None:
        self._pay("delete")
        with self._lock:
            self._objects(key).pop(key, None)

    def delete_many(self, keys: Sequence[str]) -> None:
        self._pay("delete", -(-len(keys) // PAGE))
        with self._lock:
            for key in keys:
                self._objects(key).pop(key, None)

    def _pay(self, what: str, count: int = 1) -> None:
        how = "alone" if threading.current_thread() is threading.main_thread() else "parallel"
        with self._lock:
            self.requests[what, how] += count

    def _objects(self, key: str) -> dict[str, bytes]:
        return self._folders.setdefault("/".join(key.split("/")[:DEPTH]), {})

    def _below(self, prefix: str) -> Sequence[str]:
        start = f"{prefix}/"
        folders = [name for name in self._folders if name.startswith(start) or start.startswith(f"{name}/")]
        return [key for name in folders for key in self._folders[name] if key.startswith(start)]
