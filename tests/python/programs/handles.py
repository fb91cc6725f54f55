"""NVIDIA's libraries start where nothing can be computed: each gives its handle, and no GPU is claimed for it."""

import ctypes
import glob
import os
import sys

import checks
import shim
import torch
import torch.distributed
from checks import check

torch.zeros(1).to("cuda")


def library(name):
    """A library of NVIDIA's wheels, as torch loads it."""
    places = [os.path.join(path, "nvidia", "*", "lib", f"{name}.so.*") for path in sys.path]
    found = [path for place in places for path in sorted(glob.glob(place))]
    assert found, f"no {name} in {places}"
    return ctypes.CDLL(found[0])


def handle(name, create, destroy):
    """Makes a handle of a library and takes it away again."""
    functions, made = library(name), ctypes.c_void_p()
    code = getattr(functions, create)(ctypes.byref(made))
    assert (code, bool(made.value)) == (0, True), f"{create} answered {code}"
    code = getattr(functions, destroy)(made)
    assert code == 0, f"{destroy} answered {code}"


@check
def cublas_of_torch():
    assert torch.cuda.current_blas_handle()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        assert torch.cuda.current_blas_handle()


@check
def cublas():
    handle("libcublas", "cublasCreate_v2", "cublasDestroy_v2")


@check
def cublaslt():
    handle("libcublasLt", "cublasLtCreate", "cublasLtDestroy")


@check
def cudnn():
    assert torch.backends.cudnn.is_available()
    handle("libcudnn", "cudnnCreate", "cudnnDestroy")


@check
def cufft():
    handle("libcufft", "cufftCreate", "cufftDestroy")


@check
def cusolver():
    handle("libcusolver", "cusolverDnCreate", "cusolverDnDestroy")


@check
def cusparse():
    handle("libcusparse", "cusparseCreate", "cusparseDestroy")


@check
def curand():
    functions, made, default = library("libcurand"), ctypes.c_void_p(), 100
    assert functions.curandCreateGenerator(ctypes.byref(made), default) == 0
    assert functions.curandDestroyGenerator(made) == 0


@check
def nccl():
    """A group of one reduces by a copy: no kernel."""
    torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
    data = torch.arange(1000.0).to("cuda")
    torch.distributed.all_reduce(data)
    assert torch.equal(data.cpu(), torch.arange(1000.0))
    torch.distributed.destroy_process_group()


@check
def nothing_of_this_needed_a_gpu():
    state = shim.state()
    assert (state["claims"], state["level"]) == (0, "parked"), state


checks.main()
