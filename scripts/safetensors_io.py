"""Safetensors files for the scripts that work with PyTorch.

    tensors, metadata = read_safetensors("last.safetensors")   # name -> torch tensor, in file order
    write_safetensors("out.safetensors", tensors, {"model": "vgg16"})
"""

import json
import math
import os
import struct

import torch

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
    "F64": torch.float64,
}
MAX_HEADER_BYTES = 100_000_000


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read_safetensors(path):
    """Nothing in the file is trusted: ValueError says what is wrong with it."""
    with open(path, "rb") as file:
        contents = file.read()
    if len(contents) < 8:
        raise ValueError(f"not a safetensors file: only {len(contents)} bytes")
    (size,) = struct.unpack("<Q", contents[:8])
    if size > len(contents) - 8 or size > MAX_HEADER_BYTES:
        raise ValueError("not a safetensors file, or truncated")
    try:
        header = json.loads(contents[8:8 + size])
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not a safetensors file: its header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise ValueError("not a safetensors file: its header is no object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError("the metadata is no object")
    data = memoryview(contents)[8 + size:]
    tensors = {}
    for name, entry in header.items():
        entry = entry if isinstance(entry, dict) else {}
        dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if (dtype not in DTYPES or not isinstance(shape, list) or not all(map(_whole, shape))
                or not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets))):
            raise ValueError(f"tensor {name}: its entry is malformed (dtype {dtype}, shape {shape})")
        begin, end = offsets
        bytes_needed = math.prod(shape) * torch.empty(0, dtype=DTYPES[dtype]).element_size()
        if end > len(data) or end - begin != bytes_needed:
            raise ValueError(f"tensor {name}: {bytes_needed} bytes are not at {begin} to {end} "
                             f"of {len(data)}: damaged or truncated")
        if bytes_needed == 0:
            tensors[name] = torch.empty(shape, dtype=DTYPES[dtype])
        else:
            # A copy: it may be of any alignment in the file.
            tensors[name] = torch.frombuffer(bytearray(data[begin:end]), dtype=DTYPES[dtype]).reshape(shape)
    order = sorted(tensors, key=lambda name: header[name]["data_offsets"])
    return {name: tensors[name] for name in order}, {str(k): str(v) for k, v in metadata.items()}


def write_safetensors(path, tensors, metadata):
    """tensors: name -> torch tensor, floats as F32 and whole numbers as I64. Atomic and synced."""
    header, blobs, offset = {"__metadata__": {k: str(v) for k, v in metadata.items()}}, [], 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.is_floating_point():
            dtype, tensor = "F32", tensor.to(torch.float32)
        else:
            dtype, tensor = "I64", tensor.to(torch.int64)
        blob = tensor.numpy().tobytes()
        header[name] = {"dtype": dtype, "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)

    def write(file):
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for blob in blobs:
            file.write(blob)

    write_atomically(path, write)


def write_atomically(path, write):
    """Calls write(file) on a file beside `path`, syncs it and renames it over `path`."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
