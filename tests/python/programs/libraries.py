"""cuBLAS, cuDNN, cuFFT, cuSOLVER, cuSPARSE, NVRTC and NCCL start and launch their kernels; softcuda records them."""

import checks
import torch
import torch.distributed
import torch.nn.functional as functional
from checks import check
from launches import of as launches


def device(*shape, dtype=torch.float32):
    return torch.empty(*shape, device="cuda", dtype=dtype)


@check
def cublas_multiplies():
    assert launches(lambda: device(64, 48) @ device(48, 32), "gemm").shape == (64, 32)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        launches(lambda: device(128, 128, dtype=dtype) @ device(128, 128, dtype=dtype), "gemm")
        launches(lambda: device(4, 64, 64, dtype=dtype) @ device(4, 64, 64, dtype=dtype), "gemm")


@check
def cublaslt_multiplies():
    def linear():
        half = torch.float16
        return functional.linear(device(64, 64, dtype=half), device(64, 64, dtype=half), device(64, dtype=half))

    launches(linear, "gemm")


@check
def cudnn_convolves():
    assert torch.backends.cudnn.is_available() and torch.backends.cudnn.version() >= 8500
    for dtype in (torch.float32, torch.float16):
        size = (8, 8, 3, 3)
        for benchmark in (False, True):
            torch.backends.cudnn.benchmark = benchmark
            result = launches(
                lambda: functional.conv2d(device(1, 8, 32, 32, dtype=dtype), device(*size, dtype=dtype)),
                "conv|cudnn|fprop|xmma|gemm",
            )
            assert result.shape == (1, 8, 30, 30)


@check
def cufft_transforms():
    assert launches(lambda: torch.fft.rfft(device(1024)), "fft").shape == (513,)
    # a prime: another plan, with tables that are copied into a variable of a module
    launches(lambda: torch.fft.fft(device(1009)), "fft|bluestein")


@check
def cusolver_and_magma_solve():
    launches(lambda: torch.linalg.solve_ex(device(64, 64), device(64, 2)), "getrf|laswp|trsm|lu_|magma|solve")


@check
def cusparse_multiplies():
    matrix = torch.sparse_coo_tensor([[0, 1], [1, 0]], [1.0, 2.0], (2, 2)).to_sparse_csr().to("cuda")
    launches(lambda: torch.sparse.mm(matrix, device(2, 2)), "csr|spmm|sparse")


@check
def nvrtc_compiles():
    launches(lambda: torch.special.i1(device(1000)), "i1")


@check
def attention():
    for dtype in (torch.float16, torch.float32):
        qkv = device(1, 4, 64, 64, dtype=dtype)
        launches(lambda: functional.scaled_dot_product_attention(qkv, qkv, qkv), "flash|fmha|attention|gemm")


@check
def random_numbers():
    launches(lambda: torch.randn(1000, device="cuda"), "distribution")
    launches(lambda: torch.nn.functional.dropout(device(1000)), "dropout")


@check
def a_training_step():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5)).to("cuda")
    optimizer = torch.optim.Adam(module.parameters())

    def step():
        module(device(2, 3, 8, 8)).sum().backward()
        optimizer.step()

    launches(step, "gemm|conv")
    launches(step, "Adam|multi_tensor|addcdiv")
    assert all(parameter.grad.is_cuda for parameter in module.parameters())


@check
def nccl_reduces_in_a_group_of_one():
    assert torch.cuda.nccl.version() >= (2, 14)
    torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
    data = torch.arange(1000.0).to("cuda")
    torch.distributed.all_reduce(data)
    torch.distributed.broadcast(data, 0)
    torch.distributed.barrier()
    assert torch.equal(data.cpu(), torch.arange(1000.0))
    torch.distributed.destroy_process_group()


checks.main()
