"""Files of results, and what counts as a difference between them."""

import struct

import pytest
from gpu_check import compare, npy
from testing import lacking


def _write(path, values, code="<f4", shape=None):
    data = b"".join(struct.pack("<" + {"<f4": "f", "<i8": "q", "<u2": "H"}[code], value) for value in values)
    header = repr({"descr": code, "fortran_order": False, "shape": shape or (len(values),)}).encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data)


@pytest.fixture
def folders(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    return one, other


def _runs(folders, one, other, **how):
    _write(folders[0] / "000.npy", one)
    _write(folders[1] / "000.npy", other, **how)
    return compare.runs(*folders)


def test_equal(folders):
    assert _runs(folders, [1, 2, float("nan")], [1, 2, float("nan")]) == (1, [])


def test_a_value(folders):
    text = "000.npy: 2 of 12 bytes differ, the first in element 1 of <f4 (3,), values by up to 0.5"
    assert _runs(folders, [1, 2, 3], [1, 2.5, 3.5]) == (1, [text])


def test_zeros_of_either_sign_differ(folders):
    assert len(_runs(folders, [0.0], [-0.0])[1]) == 1


def test_shapes_and_types(folders):
    assert _runs(folders, [1, 2], [1, 2], shape=(2, 1)) == (1, ["000.npy: <f4 (2,) against <f4 (2, 1)"])
    assert _runs(folders, [1, 2], [1], code="<i8") == (1, ["000.npy: <f4 (2,) against <i8 (1,)"])


def test_a_missing_result(folders):
    _write(folders[1] / "001.npy", [1])
    assert _runs(folders, [1], [1]) == (2, ["001.npy: only in one run"])


def test_copies_and_their_originals(folders):
    folder = folders[0]
    _write(folder / "000.copied.npy", [1])
    _write(folder / "000.original.npy", [1])
    _write(folder / "001.copied.npy", [1, 7])
    _write(folder / "001.original.npy", [1, 8])
    _write(folder / "002.npy", [1])
    count, texts = compare.copies(folder)
    assert count == 2 and len(texts) == 1 and texts[0].startswith("001.copied.npy: ")


def test_files_that_are_cut_off_are_no_results(tmp_path):
    _write(tmp_path / "a.npy", [1, 2], shape=(3,))
    with pytest.raises(ValueError, match="cut off"):
        npy.Array(tmp_path / "a.npy")


def test_tensors_are_saved_as_numpy_reads_them(tmp_path):
    torch, numpy = lacking.module("torch"), lacking.module("numpy")
    for tensor in (
        torch.randn(3, 4).t(),
        torch.randn(2).half(),
        torch.tensor(5),
        torch.zeros(0, 3),
        torch.randn(2, dtype=torch.complex64),
        torch.tensor([True, False]),
    ):
        npy.save(tmp_path / "a.npy", tensor)
        numpy.testing.assert_array_equal(numpy.load(tmp_path / "a.npy"), tensor.numpy())
    npy.save(tmp_path / "a.npy", torch.tensor([1.5], dtype=torch.bfloat16))
    assert numpy.load(tmp_path / "a.npy").tolist() == [0x3FC0]
