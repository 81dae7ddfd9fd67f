"""Slices of tensors, and files of them: safetensors whose header also says of which tensor, and where, each slice is.

A file is written by one worker and holds what that worker keeps of each tensor: all of it, or a block of its rows.
Nothing is pickled, and any reader of safetensors can open a file.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# Key in the header's metadata: JSON, key of a slice -> [shape of the whole tensor, offset of the slice], and the name
# of the tensor if the key is another, as that of the second slice of one tensor is.
METADATA = "slices"
CHUNK_BYTES = 4 * 2**20  # written and hashed at a time
ALIGNMENT = 8  # bytes of the header's length
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TensorSlice:
    """A block of a tensor: all of it, or a part that starts at `offset`."""

    name: str
    shape: Shape  # of the whole tensor
    offset: Shape
    tensor: torch.Tensor  # the block


def whole(name: str, tensor: torch.Tensor) -> TensorSlice:
    return TensorSlice(name=name, shape=tuple(tensor.shape), offset=(0,) * tensor.ndim, tensor=tensor)


@dataclass(frozen=True, kw_only=True)
class SliceFile:
    """The bytes of a file of slices, without a copy of the tensors."""

    header: bytes
    blocks: tuple[memoryview, ...]

    @property
    def size(self) -> int:
        return len(self.header) + sum(len(block) for block in self.blocks)

    def chunks(self) -> Iterator[bytes | memoryview]:
        yield self.header
        for block in self.blocks:
            for start in range(0, len(block), CHUNK_BYTES):
                yield block[start : start + CHUNK_BYTES]


def slice_file(slices: Iterable[TensorSlice]) -> SliceFile:
    """The file of some slices in host memory; the same slices give the same bytes."""
    header: dict[str, Any] = {}
    places: dict[str, tuple[Any, ...]] = {}
    blocks, end = list[memoryview](), 0
    for item in sorted(slices, key=lambda item: (item.name, item.offset)):
        block = _bytes_of(item.tensor)
        is_first = item.name not in header
        key = item.name if is_first else f"{item.name} from {','.join(map(str, item.offset))}"
        header[key] = {
            "dtype": _DTYPES[item.tensor.dtype],
            "shape": list(item.tensor.shape),
            "data_offsets": [end, end + len(block)],
        }
        places[key] = (item.shape, item.offset) if is_first else (item.shape, item.offset, item.name)
        blocks.append(block)
        end += len(block)
    header["__metadata__"] = {METADATA: json.dumps(places)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return SliceFile(header=len(text).to_bytes(8, "little") + text, blocks=tuple(blocks))


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file. Raises: ValueError if it has none."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(length))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a safetensors file (its header is no object)")
    return found


def tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's type, shape and values."""
    copy = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{_DTYPES[copy.dtype]} {list(copy.shape)}".encode())
    block = _bytes_of(copy)
    for start in range(0, len(block), CHUNK_BYTES):
        digest.update(block[start : start + CHUNK_BYTES])
    return digest.hexdigest()


def share_out(sizes: Mapping[str, int], workers: int) -> dict[str, int]:
    """Name -> worker that writes it: about as many bytes for each, the same on all workers."""
    loads = [0] * workers
    owners: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        worker = loads.index(min(loads))
        owners[name] = worker
        loads[worker] += sizes[name]
    return owners


def overlap(offset: Sequence[int], extent: Sequence[int], other: Sequence[int], size: Sequence[int]) -> Any:
    """Where two blocks of a tensor meet: slices into the first and into the second block; None if they do not."""
    first, second = [], []
    for begin, length, start, width in zip(offset, extent, other, size, strict=True):
        low, high = max(begin, start), min(begin + length, start + width)
        if low >= high:
            return None
        first.append(slice(low - begin, high - begin))
        second.append(slice(low - start, high - start))
    return tuple(first), tuple(second)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().contiguous().reshape(-1)
    if not flat.numel():
        return memoryview(b"")
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)
