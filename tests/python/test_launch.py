"""Kernels: recorded by softcuda with name, grid and parameter bytes; refused with one clear line without a driver."""

import re
import struct

import pytest
from world import each_check, torch_version
from testing import lacking  # world has set the path


@pytest.fixture(scope="module")
def libraries(worlds):
    return worlds("libraries").run("libraries.py")


@each_check("libraries.py")
def test_libraries(libraries, check):
    libraries.require(check)


@pytest.fixture(scope="module")
def handles(worlds, driver):
    return worlds("handles").run("handles.py", driver=driver)


@each_check("handles.py")
def test_library_handles(handles, check):
    handles.require(check)


@pytest.fixture(scope="module")
def handles_of_an_h100(worlds):
    if torch_version() < (2, 1):
        pytest.skip("torch 2.0 is not made for this card")
    return worlds("handles-h100").run("handles.py", options=("--profile", "h100-80gb"))


@each_check("handles.py")
def test_library_handles_on_an_h100(handles_of_an_h100, check):
    handles_of_an_h100.require(check)


@pytest.fixture(scope="module")
def triton(worlds):
    if torch_version() == (2, 1):
        pytest.skip("Triton 2.1 finds libcuda.so by ldconfig alone: it needs an installed driver")
    lacking.module("triton")
    world = worlds("triton")
    return world.run("triton_kernel.py", TRITON_CACHE_DIR=world.folder / "triton")


@each_check("triton_kernel.py")
def test_a_triton_kernel_is_compiled_and_launched(triton, check):
    triton.require(check)


FILL = re.compile(r"vectorized_elementwise_kernel.*FillFunctorIf")
ADD = re.compile(r"vectorized_elementwise_kernel.*CUDAFunctorOnSelf_addIf")


def test_a_launch_is_recorded_with_name_grid_and_parameters(world):
    outcome = world.run("launch.py")
    outcome.require_end()
    deferred, read = outcome.told["deferred"], outcome.told["read"]
    assert deferred["state"]["claims"] == 0 and deferred["state"]["deferred"] == 2
    assert (read["state"]["claims"], read["state"]["borrows"]) == (1, 1)
    assert read["shape"] == [3]

    fill, add = world.launches()
    zeros, ones = deferred["zeros"], deferred["ones"]
    for launch in (fill, add):
        assert (launch["grid"], launch["block"], launch["shared"]) == ([1, 1, 1], [128, 1, 1], 0)
    assert FILL.search(fill["kernel"]) and ADD.search(add["kernel"])
    # element count, functor, addresses: out, then in
    assert bytes.fromhex(fill["params"]) == struct.pack("<ifQ", 3, 0.0, zeros)
    assert bytes.fromhex(add["params"]) == struct.pack("<iffxxxxQQ", 3, 1.0, 1.0, ones, zeros)


def test_without_a_driver_a_launch_fails_with_one_clear_line(world):
    outcome = world.run("refused.py", driver="none")
    outcome.require_all(messages=True)
    (message,) = outcome.messages()
    assert re.match(r"zerogpu: kernel \S*CUDAFunctorOnSelf_add\S* can't run: there is no CUDA driver", message)
    assert "--driver soft" in message
    assert not outcome.out
