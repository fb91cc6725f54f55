"""Results as .npy files, written and read without numpy: the bytes of a tensor behind a short header."""

import ast
import ctypes
import math

_MAGIC = b"\x93NUMPY\x01\x00"

# numpy has no bfloat16: its bits are kept as integers.
_CODES = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "complex64": "<c8",
    "complex128": "<c16",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "|i1",
    "uint8": "|u1",
    "bool": "|b1",
}


def save(path, tensor):
    """Writes a torch tensor."""
    host = tensor.detach().cpu().contiguous()
    code = _CODES[str(host.dtype).split(".")[1]]
    header = f"{{'descr': '{code}', 'fortran_order': False, 'shape': {tuple(host.shape)}, }}"
    header += " " * (-(len(_MAGIC) + 2 + len(header) + 1) % 64) + "\n"
    with open(path, "wb") as file:
        file.write(_MAGIC + len(header).to_bytes(2, "little") + header.encode())
        file.write(ctypes.string_at(host.data_ptr(), host.numel() * host.element_size()))


class Array:
    """A file read back: `code` (numpy's type), `shape`, `data` (bytes)."""

    def __init__(self, path):
        content = path.read_bytes()
        if not content.startswith(_MAGIC):
            raise ValueError(f"{path} is no .npy file")
        start = len(_MAGIC) + 2
        end = start + int.from_bytes(content[len(_MAGIC) : start], "little")
        header = ast.literal_eval(content[start:end].decode())
        self.code, self.shape = header["descr"], header["shape"]
        self.data = content[end:]
        self.width = int(self.code[2:])
        if len(self.data) != self.width * math.prod(self.shape):
            raise ValueError(f"{path} is cut off")
