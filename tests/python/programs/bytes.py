"""Bytes go to the device and come back as they were, by each way that needs no kernel.

BYTES_MODE: "default", "expandable" or "async", the allocator that must be at work. BYTES_BIG: size of the large test.
"""

import concurrent.futures
import copy
import ctypes
import io
import os
import pickle

import checks
import runtime
import safetensors.torch
import shim
import torch
from checks import check

MODE = os.environ["BYTES_MODE"]
BIG = int(os.environ["BYTES_BIG"])
FOLDER = os.environ["CHECKS_FOLDER"]
MIB = 1 << 20

DTYPES = [
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.complex128,
]  # fmt: skip


def random(size, seed=0, dtype=torch.uint8):
    """Random bytes, seen as `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.empty(-(-size // 8), dtype=torch.int64).random_(generator=generator)
    return words.view(torch.uint8)[:size].view(dtype)


def same(one, other):
    """Whether two tensors hold the same bytes, whatever they mean (a NaN is not equal to itself)."""
    one, other = one.cpu().contiguous(), other.cpu().contiguous()
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(as_bytes(one), as_bytes(other))


def like(tensor):
    """Random bytes of the same type and shape."""
    return random(tensor.numel() * tensor.element_size(), 7, tensor.dtype).view(tensor.shape)


def as_bytes(tensor):
    return tensor.reshape(-1).view(torch.uint8)


@check
def the_allocator_is_the_one_asked_for():
    kept = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    if MODE == "async":
        assert torch.cuda.get_allocator_backend() == "cudaMallocAsync"
    else:
        segments = torch.cuda.memory_snapshot()
        expandable = [segment for segment in segments if segment.get("is_expandable")]
        assert bool(expandable) == (MODE == "expandable"), segments
    assert kept.is_cuda


@check
def every_type_there_and_back():
    for dtype in DTYPES:
        for count in (1, 3, 1000, 65537):
            if dtype == torch.bool:
                original = random(count) > 127
            else:
                original = random(count * torch.empty(0, dtype=dtype).element_size(), count, dtype)
            assert same(original.to("cuda"), original), (dtype, count)
            assert same(original.cuda(non_blocking=True), original), (dtype, count)


@check
def nothing_at_all():
    for shape in ((0,), (3, 0, 2)):
        there = torch.empty(shape).to("cuda")
        assert there.shape == shape and there.cpu().shape == shape
        assert there.clone().numel() == 0


@check
def clone_and_copy():
    original = random(3 * MIB + 5)
    there = original.to("cuda")
    twin = there.clone()
    assert twin.data_ptr() != there.data_ptr()
    assert same(twin, original)
    other = random(3 * MIB + 5, 1)
    there.copy_(other)
    assert same(there, other) and same(twin, original)
    twin.copy_(there)
    assert same(twin, other)
    back = torch.empty_like(original)
    back.copy_(there)
    assert torch.equal(back, other)


@check
def parts_of_a_tensor():
    original = random(1 * MIB).view(1024, 1024)
    there = original.to("cuda")
    there[100:200].copy_(original[500:600])
    there.view(-1)[3:1000] = original.view(-1)[1003:2000]
    expected = original.clone()
    expected[100:200] = original[500:600]
    expected.view(-1)[3:1000] = original.view(-1)[1003:2000]
    assert same(there, expected)
    assert same(there[17:19], expected[17:19]) and same(there.view(-1)[5:7], expected.view(-1)[5:7])


@check
def strided_tensors():
    original = random(6 * MIB, dtype=torch.float32).view(3, 512, 1024)
    for view in (original.transpose(1, 2), original[:, ::2, 1:1000], original.permute(2, 0, 1), original[1, :, 7]):
        assert same(view.to("cuda"), view)
    turned = original.permute(1, 2, 0).to("cuda")
    assert turned.stride() == original.permute(1, 2, 0).stride()
    assert same(turned.clone(), original.permute(1, 2, 0))
    image = random(2 * 3 * 64 * 64 * 4, dtype=torch.float32).view(2, 3, 64, 64).to(memory_format=torch.channels_last)
    there = image.to("cuda")
    assert there.is_contiguous(memory_format=torch.channels_last) and same(there, image)


@check
def two_dimensional_copies():
    host, there = random(512 * 300).view(300, 512), torch.zeros(300 * 640, dtype=torch.uint8).to("cuda")
    runtime.call("cudaMemcpy2D", there.data_ptr(), 640, host.data_ptr(), 512, 500, 300, runtime.HOST_TO_DEVICE)
    expected = torch.zeros(300, 640, dtype=torch.uint8)
    expected[:, :500] = host[:, :500]
    assert same(there.view(300, 640), expected)
    second = torch.zeros(300 * 520, dtype=torch.uint8).to("cuda")
    arguments = (second.data_ptr(), 520, there.data_ptr() + 640, 640, 510, 299, runtime.DEVICE_TO_DEVICE, 0)
    runtime.call("cudaMemcpy2DAsync", *arguments)
    back = torch.zeros(300, 600, dtype=torch.uint8)
    runtime.call("cudaMemcpy2D", back.data_ptr(), 600, second.data_ptr(), 520, 520, 300, runtime.DEVICE_TO_HOST)
    assert torch.equal(back[:299, :510], expected[1:, :510])
    assert not back[:, 510:].any() and not back[299].any()


@check
def three_dimensional_copies():
    host, there = random(8 * 16 * 64).view(8, 16, 64), torch.zeros(8 * 20 * 96, dtype=torch.uint8).to("cuda")
    parms = runtime.Copy3D(
        src=runtime.Pitched(host.data_ptr(), 64, 64, 16),
        src_pos=runtime.Extent(4, 2, 1),
        dst=runtime.Pitched(there.data_ptr(), 96, 96, 20),
        dst_pos=runtime.Extent(8, 3, 0),
        extent=runtime.Extent(50, 14, 7),
        kind=runtime.HOST_TO_DEVICE,
    )
    runtime.call("cudaMemcpy3D", ctypes.byref(parms))
    expected = torch.zeros(8, 20, 96, dtype=torch.uint8)
    expected[0:7, 3:17, 8:58] = host[1:8, 2:16, 4:54]
    assert same(there.view(8, 20, 96), expected)


@check
def memsets():
    there = random(4096).to("cuda")
    runtime.call("cudaMemset", there.data_ptr() + 100, 0xA5, 1000)
    runtime.call("cudaMemset2D", there.data_ptr() + 2048, 64, 0x11, 10, 16)
    expected = random(4096)
    expected[100:1100] = 0xA5
    expected[2048:3072].view(16, 64)[:, :10] = 0x11
    assert same(there, expected)


@check
def pinned_and_asynchronous():
    original = random(8 * MIB)
    pinned = original.pin_memory()
    assert pinned.is_pinned() and not original.is_pinned() and torch.equal(pinned, original)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        there = pinned.to("cuda", non_blocking=True)
        back = torch.empty(8 * MIB, dtype=torch.uint8, pin_memory=True)
        back.copy_(there, non_blocking=True)
    stream.synchronize()
    assert torch.equal(back, original)
    # pinned memory is reused; what is under way must not be overwritten
    for seed in range(50):
        source = random(1 * MIB, seed).pin_memory()
        there = source.to("cuda", non_blocking=True)
        del source
        assert same(there, random(1 * MIB, seed)), seed


@check
def numpy_lists_and_scalars():
    there = torch.tensor([[1.5, -2.0], [0.0, 3.25]], device="cuda")
    assert there.tolist() == [[1.5, -2.0], [0.0, 3.25]]
    assert there[1, 1].item() == 3.25
    array = random(1000).numpy()
    assert (torch.from_numpy(array).to("cuda").cpu().numpy() == array).all()


@check
def save_and_load():
    state = {"weight": random(4 * MIB, 1, torch.float32), "half": random(2000, 2, torch.float16), "one": random(1, 3)}
    there = {name: tensor.to("cuda") for name, tensor in state.items()}
    file = io.BytesIO()
    torch.save(there, file)
    for place in ("cuda", "cpu", None, torch.device("cuda:0")):
        file.seek(0)
        loaded = torch.load(file, map_location=place)
        for name, tensor in loaded.items():
            assert tensor.is_cuda == (place != "cpu") and same(tensor, state[name]), (place, name)
    path = os.path.join(FOLDER, "state.pt")
    torch.save(state, path)
    loaded = torch.load(path, map_location="cuda")
    assert all(loaded[name].is_cuda and same(loaded[name], state[name]) for name in state)


@check
def safetensors_files():
    state = {"a": random(3 * MIB, 4, torch.float32), "b": random(6, 5, torch.bfloat16), "c": random(0, 6, torch.int64)}
    path = os.path.join(FOLDER, "state.safetensors")
    safetensors.torch.save_file({name: tensor.to("cuda") for name, tensor in state.items()}, path)
    for place in ("cuda", "cuda:0", 0, "cpu"):
        loaded = safetensors.torch.load_file(path, device=place)
        for name, tensor in state.items():
            assert loaded[name].is_cuda == (place != "cpu") and same(loaded[name], tensor), (place, name)


@check
def modules_and_their_copies():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(100, 200), torch.nn.BatchNorm1d(200), torch.nn.Conv2d(3, 8, 3))
    before = copy.deepcopy(module.state_dict())
    module.to("cuda")
    twin = copy.deepcopy(module)
    after = {name: like(tensor) for name, tensor in before.items()}
    module.load_state_dict(after)
    for name, tensor in twin.state_dict().items():
        assert tensor.is_cuda and same(tensor, before[name]), name
    again = pickle.loads(pickle.dumps(twin.state_dict()))
    assert all(again[name].is_cuda and same(again[name], before[name]) for name in before)
    module.cpu()
    for name, tensor in module.state_dict().items():
        assert same(tensor, after[name]), name


@check
def views_share_their_memory():
    there = random(1000).to("cuda")
    view = there[100:200]
    there[150:151].copy_(torch.tensor([77], dtype=torch.uint8))
    assert view.cpu()[50] == 77
    assert view.data_ptr() == there.data_ptr() + 100
    other = torch.empty(0, dtype=torch.uint8, device="cuda").set_(there.untyped_storage(), 10, (5,))
    assert same(other, there[10:15])


@check
def memory_is_reused_and_never_mixed_up():
    generator = torch.Generator().manual_seed(1)
    alive = {}
    for turn in range(400):
        size = int(torch.randint(1, 3 * MIB, (1,), generator=generator))
        alive[turn] = (random(size, turn).to("cuda"), size)
        if turn % 3 == 2:
            oldest = min(alive)
            tensor, size = alive.pop(oldest)
            assert same(tensor, random(size, oldest)), oldest
            del tensor
        if turn % 50 == 49:
            torch.cuda.empty_cache()
    for turn, (tensor, size) in alive.items():
        assert same(tensor, random(size, turn)), turn


@check
def large_weights_from_several_threads():
    each = BIG // 4

    def round_trip(seed):
        original = random(each, seed)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            there = original.to("cuda")
            twin = there.clone()
            back = twin.cpu()
        assert torch.equal(back, original)
        return seed

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(round_trip, range(10, 14))) == [10, 11, 12, 13]


@check
def nothing_of_this_needed_a_gpu():
    state = shim.state()
    assert (state["claims"], state["level"]) == (0, "parked"), state


checks.main()
