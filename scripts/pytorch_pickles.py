"""Reads what torch.save wrote without running anything that is in it.

    loaded = read_pytorch_file("checkpoint.pth")

torch.load can run whatever a file's author wished; its weights_only refuses checkpoints that hold as
much as a float beside the tensors (1.13), and reads tar archives unrestricted (before 2.6). Here
tensors, numbers, texts and containers are made, and an Opaque stands for every other object.
Formats: zip (PyTorch 1.6 and later) and the one before it.
"""

import collections
import io
import pickle
import struct
import tarfile
import zipfile

import torch

DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


def element_bytes(dtype):
    return torch.empty(0, dtype=dtype).element_size()


class Opaque:
    """Does nothing, whatever is done to it."""

    def __new__(cls, *_, **__):
        return object.__new__(cls)

    def __init__(self, *_, **__):
        pass

    def _ignore(self, *_, **__):
        pass

    __setstate__ = __setitem__ = append = extend = add = update = _ignore


class Storage:
    """The elements behind tensors; filled once they are known."""

    def __init__(self, dtype, count):
        if not isinstance(dtype, torch.dtype) or not isinstance(count, int) or count < 0:
            raise ValueError("a storage of an unknown type")
        self.dtype, self.count, self.elements = dtype, count, None

    def fill(self, data):
        size = self.count * element_bytes(self.dtype)
        if len(data) != size:
            raise ValueError(f"a storage has {len(data)} bytes, expected {size}: damaged or truncated")
        self.elements = (torch.frombuffer(bytearray(data), dtype=self.dtype) if size
                         else torch.empty(0, dtype=self.dtype))


class Pending:
    """A tensor whose storage may still be empty (the old format has the data at the end)."""

    def __init__(self, storage, offset, size, stride, dtype=None):
        if not isinstance(storage, Storage):
            raise ValueError("a tensor without a storage")
        self.storage, self.offset, self.size, self.stride, self.dtype = storage, offset, size, stride, dtype

    def __setstate__(self, state):
        pass

    def tensor(self):
        elements = self.storage.elements
        if elements is None:
            raise ValueError("a tensor without data: damaged or truncated")
        if self.dtype is not None:
            elements = elements.view(self.dtype)
        return torch.as_strided(elements, self.size, self.stride, self.offset).clone()  # checks the bounds


def _rebuild_v2(storage, offset, size, stride, *_):
    return Pending(storage, offset, size, stride)


def _rebuild_v3(storage, offset, size, stride, requires_grad, hooks, dtype, *_):
    return Pending(storage, offset, size, stride, dtype)


def _rebuild_parameter(data, *_):
    return data


class _Unpickler(pickle.Unpickler):
    REBUILD = {"_rebuild_tensor": _rebuild_v2, "_rebuild_tensor_v2": _rebuild_v2,
               "_rebuild_tensor_v3": _rebuild_v3, "_rebuild_parameter": _rebuild_parameter,
               "_rebuild_parameter_with_state": _rebuild_parameter}

    def __init__(self, file, storage_of):
        super().__init__(file, encoding="utf-8")
        self.storage_of = storage_of

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if module == "torch._utils" and name in self.REBUILD:
            function = self.REBUILD[name]
            return lambda *arguments: function(*arguments)  # its own: a pickle may set attributes of it
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return type(name, (Opaque,), {"__module__": module})

    def persistent_load(self, saved_id):
        if isinstance(saved_id, tuple) and saved_id[:1] == ("module",) and len(saved_id) > 1:
            return saved_id[1]  # a class, with its source text behind it
        if not isinstance(saved_id, tuple) or len(saved_id) < 5 or saved_id[0] not in ("storage", b"storage"):
            return Opaque()
        return self.storage_of(saved_id)


def _filled(value):
    """With tensors in place of what stands for them."""
    if isinstance(value, Pending):
        return value.tensor()
    if isinstance(value, dict):
        return {k: _filled(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(v) for v in value]
    return value


def _read_zip(path):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [n for n in names if n.endswith("data.pkl") and n.count("/") <= 1]
        if len(pickles) != 1 or any(n.endswith("constants.pkl") for n in names):
            raise ValueError("an archive of another kind (TorchScript?), not of torch.save")
        folder = pickles[0][:-len("data.pkl")]
        if folder + "byteorder" in names and archive.read(folder + "byteorder") != b"little":
            raise ValueError("written on a big-endian machine")
        storages = {}

        def storage_of(saved_id):
            dtype, key, count = saved_id[1], saved_id[2], saved_id[4]
            if key not in storages:
                storages[key] = Storage(dtype, count)
                storages[key].fill(archive.read(f"{folder}data/{key}"))
            return storages[key]

        return _filled(_Unpickler(io.BytesIO(archive.read(pickles[0])), storage_of).load())


def _read_legacy(path):
    with open(path, "rb") as file:
        storages = {}

        def storage_of(saved_id):
            dtype, key, count = saved_id[1], saved_id[2], saved_id[4]
            if len(saved_id) > 5 and saved_id[5] is not None:
                raise ValueError("holds views of storages, of PyTorch before 0.4: save it again")
            return storages.setdefault(key, Storage(dtype, count))

        def load():
            return _Unpickler(file, storage_of).load()

        if load() != LEGACY_MAGIC or load() != LEGACY_PROTOCOL:
            raise ValueError("not a file of torch.save")
        information = load()
        if isinstance(information, dict) and information.get("little_endian") is False:
            raise ValueError("written on a big-endian machine")
        loaded = load()
        for key in load():
            (count,) = struct.unpack("<q", file.read(8))
            storage = storages[key]
            if count != storage.count:
                raise ValueError("a storage of another size than announced: damaged")
            storage.fill(file.read(count * element_bytes(storage.dtype)))
        return _filled(loaded)


def read_pytorch_file(path):
    """ValueError says why a file cannot be read; OSError as open() raises it."""
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        if tarfile.is_tarfile(path):
            raise ValueError("a tar archive of PyTorch before 0.1.10: save it again with a newer one")
        return _read_legacy(path)
    except (OSError, ValueError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"not a readable file of torch.save: {reason[:160]}") from None
