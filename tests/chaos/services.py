"""What drivers reach over a network in the storm: an S3 and a PostgreSQL server behind cables that can be cut.

Where the kernel allows it (Linux, as root), the drivers live in a network namespace of their own, whose link goes
down, and look names up in a hosts file of their own; elsewhere a double cuts the connections, and names stay known.
"""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.orchestrator.conftest import PostgresqlServer, S3Server, postgresql_programs, running_postgresql, running_s3

NAME = "services"  # where drivers have a hosts file of their own; without a dot, which the S3 server reads as a bucket


@dataclass
class Cable:
    """Forwards TCP connections to a port of this machine, until it is cut."""

    port: int
    host: str = "127.0.0.1"
    is_cut: threading.Event = field(default_factory=threading.Event)
    _open: set[socket.socket] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._listener = socket.create_server((self.host, 0), backlog=128)
        self.own_port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break the connections and refuse new ones."""
        self.is_cut.set()
        for end in tuple(self._open):  # those that carry it close them
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.is_cut.clear()

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.is_cut.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.port))
            except OSError:  # the server restarts
                near.close()
                continue
            self._open |= {near, far}
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        """Both directions of a connection, whose ends are closed after it: a storm opens thousands."""
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join()
        self._open -= {near, far}
        near.close()
        far.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Namespace:
    """A network namespace with one link to this machine, and a hosts file that is bound over that of the system."""

    name: str
    host: str  # the address of this machine as seen from there
    hosts: Path

    @property
    def prefix(self) -> list[str]:
        """Of a command that is to run in it."""
        script = 'mount --make-rprivate / && mount --bind "$0" /etc/hosts && exec "$@"'
        return ["ip", "netns", "exec", self.name, "unshare", "--mount", "sh", "-c", script, str(self.hosts)]

    def set_link(self, state: str) -> None:
        """`state`: up or down."""
        _ip("link", "set", self.name, state)

    def know_names(self, are_known: bool) -> None:
        self.hosts.write_text(f"127.0.0.1 localhost\n{self.host} {NAME}\n" if are_known else "127.0.0.1 localhost\n")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20)


@contextmanager
def namespace(folder: Path) -> Iterator[Namespace | None]:
    """None where the kernel or the user's rights do not allow one."""
    name = f"st{os.getpid()}"[:14]
    net = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"  # of this process alone
    host, inside = f"{net}.1", f"{net}.2"
    found = Namespace(name, host, folder / "hosts")
    with ExitStack() as stack:
        try:
            _ip("netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)
            _ip("link", "add", name, "type", "veth", "peer", "name", "inside", "netns", name)
            stack.callback(subprocess.run, ["ip", "link", "del", name], check=False, stderr=subprocess.DEVNULL)
            _ip("addr", "add", f"{host}/30", "dev", name)
            _ip("link", "set", name, "up")
            for words in (("addr", "add", f"{inside}/30", "dev", "inside"), ("link", "set", "inside", "up")):
                _ip("-n", name, *words)
            _ip("-n", name, "link", "set", "lo", "up")
            found.know_names(True)
            subprocess.run([*found.prefix, "true"], check=True, stderr=subprocess.DEVNULL, timeout=20)
        except (OSError, subprocess.SubprocessError):
            yield None
            return
        yield found


@dataclass(frozen=True)
class Services:
    """A store and a database that drivers reach through cables, or through the link of their namespace."""

    s3: S3Server
    postgresql: PostgresqlServer | None  # None: its programs are not installed
    namespace: Namespace | None
    cables: tuple[Cable, ...]

    def store_url(self, bucket: str, *, of_driver: bool) -> str:
        url = self.s3.url(bucket)
        return url.replace(self.s3.endpoint, f"http://{self._place(0)}") if of_driver else url

    def database_url(self, *, of_driver: bool) -> str | None:
        if self.postgresql is None:
            return None
        own = f"127.0.0.1:{self.postgresql.address.rpartition(':')[2]}"
        address = self.postgresql.address.replace(own, self._place(1)) if of_driver else self.postgresql.address
        return f"{address}/postgres"

    def _place(self, number: int) -> str:
        return f"{NAME if self.namespace else '127.0.0.1'}:{self.cables[number].own_port}"

    def cut(self) -> None:
        """No packet passes between drivers and services; connections break where there is no link to take down."""
        if self.namespace:
            self.namespace.set_link("down")
        else:
            for cable in self.cables:
                cable.cut()

    def mend(self) -> None:
        if self.namespace:
            self.namespace.set_link("up")
        for cable in self.cables:
            cable.mend()


@contextmanager
def running_services(folder: Path) -> Iterator[Services]:
    """Started once for a storm; each round has a bucket and a schema of its own."""
    programs = postgresql_programs()
    with ExitStack() as stack:
        s3 = stack.enter_context(running_s3())
        postgresql = stack.enter_context(running_postgresql(programs)) if programs else None
        place = stack.enter_context(namespace(folder)) if shutil.which("ip") else None
        ports = [int(s3.endpoint.rpartition(":")[2])]
        ports += [int(postgresql.address.rpartition(":")[2])] if postgresql else []
        cables = tuple(Cable(port, host=place.host if place else "127.0.0.1") for port in ports)
        for cable in cables:
            stack.callback(cable.close)
        yield Services(s3, postgresql, place, cables)
