import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.backends.local_store import LocalStore
from orchestrator.errors import StoreError
from orchestrator.store.store import probe

NOBODY = 65534
IN_A_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
from orchestrator.errors import StoreError
from orchestrator.backends.local_store import LocalStore
from orchestrator.store.store import probe
root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + sys.argv[2], "tmpfs", str(root)], check=True)
store = LocalStore(root)
store.put_new("kept/before", b"committed")
if sys.argv[3] == "ro":
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
def attempt(action):
    try:
        action()
        print("no error")
    except StoreError as error:
        print(error)
attempt(lambda: probe(store))
attempt(lambda: store.put_new("big/record", b"x" * 1024 * 1024))
print(store.get("kept/before"), [item.key for item in store.list("big")])
print([path.name for path in (root / ".tmp").iterdir()])
"""


def small_disk(root: Path, *, size: str, mode: str) -> list[str]:
    """Run the script with a small disk mounted at `root`, in a mount namespace of its own."""
    root.mkdir()
    command = ["unshare", "-rm", sys.executable, "-c", IN_A_SMALL_DISK, str(root), size, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip("this machine does not let a test mount a disk")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_full_disk_is_refused_by_the_probe_and_by_a_write_without_loss(tmp_path: Path) -> None:
    refused, failed, kept, temporary = small_disk(tmp_path / "disk", size="512k", mode="rw")
    assert "the disk is full: found" in refused
    assert "expected at least 16,777,216" in refused
    assert "cannot write 'big/record': No space left on device. Free some space" in failed
    assert kept == "b'committed' []"
    assert temporary == "[]"


def test_a_read_only_disk_is_refused_by_the_probe_and_by_a_write_without_loss(tmp_path: Path) -> None:
    refused, failed, kept, _ = small_disk(tmp_path / "disk", size="64m", mode="ro")
    assert "Read-only file system. Mount the disk writable or choose another store" in refused
    assert "Read-only file system" in failed
    assert kept == "b'committed' []"


def test_a_file_where_the_store_should_be_is_explained(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("I am a file")
    with pytest.raises(StoreError, match=r"Not a directory\. A file exists where a folder is needed"):
        probe(LocalStore(tmp_path / "store"))


def test_a_folder_without_write_permission_is_explained() -> None:
    with tempfile.TemporaryDirectory() as name:  # which others may enter
        os.chmod(name, 0o755)
        store = Path(name, "store")
        store.mkdir()
        store.chmod(0o555)
        assert "Permission denied. Give this user write permission" in probed_by_nobody(store)


def probed_by_nobody(folder: Path) -> str:
    """The error that a user without write permission gets (root may write everywhere)."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        try:
            probe(LocalStore(folder))
        except StoreError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StoreError, match="must allow hard links"):
        probe(LocalStore(tmp_path / "store"))


def test_a_record_is_on_the_disk_before_it_gets_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, link = os.fsync, os.link

    def spy_fsync(descriptor: int) -> None:
        calls.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name[:6])
        fsync(descriptor)

    def spy_link(source: str, target: str) -> None:
        calls.append(f"link {Path(target).name}")
        link(source, target)

    store = LocalStore(tmp_path / "store")
    store.put_new("a/first", b"data")
    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "link", spy_link)
    store.put_new("a/second", b"data")
    assert [call.split()[0] for call in calls] == ["fsync", "link", "fsync"]
    assert calls[1:] == ["link second", "fsync a"]


def test_a_link_whose_reply_got_lost_on_a_network_disk_still_counts_as_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_then_claim_it_existed(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", link_then_claim_it_existed)
    store = LocalStore(tmp_path / "store")
    assert store.put_new("a/b", b"data")
    assert store.get("a/b") == b"data"


def test_nothing_is_ever_renamed_and_no_temporary_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a rename could replace a record")

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    store = LocalStore(tmp_path / "store")
    store.put_new("a/b", b"data")
    store.put_new("a/b", b"other")
    store.upload(tmp_path / "store/a/b", "c/d")
    assert list((tmp_path / "store/.tmp").iterdir()) == []


def test_an_upload_never_replaces_an_object(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put_new("a/b", b"data")
    (tmp_path / "file").write_bytes(b"other")
    with pytest.raises(StoreError, match="'a/b' exists already"):
        store.upload(tmp_path / "file", "a/b")
    assert store.get("a/b") == b"data"


def test_links_in_the_store_are_not_followed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put_new("a/b", b"data")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    (tmp_path / "store/a/link").symlink_to(tmp_path / "outside")
    (tmp_path / "store/a/file").symlink_to(tmp_path / "outside/secret")
    assert [item.key for item in store.list("a")] == ["a/b"]
    assert store.folders("a") == ()


CREATE_MANY = """
import sys
from pathlib import Path
from orchestrator.backends.local_store import LocalStore
store = LocalStore(Path(sys.argv[1]))
print(*[number for number in range(200) if store.put_new(f"race/{number}", sys.argv[2].encode())])
"""


def test_processes_that_race_for_many_keys_share_them_without_overlap(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", CREATE_MANY, str(tmp_path / "store"), name] for name in ("one", "two")]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    one, two = ([int(number) for number in racer.communicate(timeout=60)[0].split()] for racer in racers)
    assert sorted(one + two) == list(range(200))
    store = LocalStore(tmp_path / "store")
    assert all(store.get(f"race/{number}") == b"one" for number in one)
