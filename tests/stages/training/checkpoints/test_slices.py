"""Files of slices: any reader of safetensors opens them, and blocks meet where they should."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages.training.checkpoints import slices as slices_module
from stages.training.checkpoints.slices import (
    METADATA,
    TensorSlice,
    overlap,
    read_header,
    share_out,
    slice_file,
    tensor_digest,
    whole,
)

TENSORS = {
    "weights/m/a": torch.arange(12.0).view(3, 4),
    "weights/m/b": torch.tensor(3, dtype=torch.int64),
    "weights/m/c": torch.randn(2, 3).to(torch.bfloat16),
    "weights/m/empty": torch.zeros(0, 4),
    "weights/m/turned": torch.arange(6.0).view(2, 3).T,
}


def test_a_file_of_slices_is_a_safetensors_file_with_places(tmp_path: Path) -> None:
    slices = [whole(name, tensor) for name, tensor in TENSORS.items()]
    file = slice_file(slices)
    data = b"".join(file.chunks())
    assert len(data) == file.size
    assert data == b"".join(slice_file(slices[::-1]).chunks())
    path = tmp_path / "part.safetensors"
    path.write_bytes(data)
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert read_header(path)["weights/m/a"]["shape"] == [3, 4]


def test_a_file_is_written_in_small_pieces_and_its_tensors_are_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    file = slice_file([whole(name, tensor) for name, tensor in TENSORS.items()])
    data = b"".join(file.chunks())
    monkeypatch.setattr(slices_module, "CHUNK_BYTES", 16)
    pieces = [bytes(piece) for piece in file.chunks()]
    assert b"".join(pieces) == data
    assert [len(piece) for piece in pieces[1:]] == [16, 16, 16, 8, 12, 16, 8]
    assert len(file.header) % 8 == 0
    assert (
        tensor_digest(torch.arange(12.0))
        == hashlib.sha256(b"F32 [12]" + torch.arange(12.0).numpy().tobytes()).hexdigest()
    )


def test_two_slices_of_one_tensor_have_keys_of_their_own(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).view(6, 2)
    parts = [TensorSlice(name="m", shape=(6, 2), offset=(at, 0), tensor=tensor[at : at + 2]) for at in (4, 0)]
    path = tmp_path / "part.safetensors"
    path.write_bytes(b"".join(slice_file(parts).chunks()))
    header = read_header(path)
    assert json.loads(header["__metadata__"][METADATA]) == {
        "m": [[6, 2], [0, 0]],
        "m from 4,0": [[6, 2], [4, 0], "m"],
    }
    assert load_file(path)["m from 4,0"].tolist() == [[8.0, 9.0], [10.0, 11.0]]


def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x02\0\0\0\0\0\0\0[]")
    with pytest.raises(ValueError, match=r"x.safetensors: not a safetensors file"):
        read_header(path)
    with pytest.raises(ValueError, match=r"absent: not a safetensors file"):
        read_header(tmp_path / "absent")


def test_digests_differ_by_value_type_and_shape() -> None:
    tensors = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.ones(4)]
    assert len({tensor_digest(tensor) for tensor in tensors}) == 4
    assert tensor_digest(torch.zeros(4)) == tensor_digest(torch.zeros(8)[::2])


def test_bytes_are_shared_out_evenly_and_alike_on_every_worker() -> None:
    sizes = {"a": 8, "b": 5, "c": 4, "d": 3}
    owners = share_out(sizes, 2)
    assert owners == share_out(dict(reversed(sizes.items())), 2)
    loads = [sum(size for name, size in sizes.items() if owners[name] == worker) for worker in range(2)]
    assert loads == [11, 9]


def test_blocks_meet_where_both_have_values() -> None:
    assert overlap((2, 0), (3, 4), (4, 0), (3, 4)) == ((slice(2, 3), slice(0, 4)), (slice(0, 1), slice(0, 4)))
    assert overlap((0,), (2,), (2,), (2,)) is None
    assert overlap((), (), (), ()) == ((), ())
