// Prints occupancy.tsv: what NVIDIA's cuda_occupancy.h computes for kernels and launches drawn from a fixed sequence.
//     c++ -I <CUDA 13.0 include folder> occupancy.cpp -o occupancy && ./occupancy > occupancy.tsv
#include <cstdio>
#include <cstdint>
#include <cuda_occupancy.h>

static uint64_t state = 1;
static unsigned pick(unsigned n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % n;
}

int main() {
    // cc, threads, threads/SM, registers, SMs, shared: block, SM, opt-in, reserved
    const int devices[][10] = {
        {7, 5, 1024, 1024, 65536, 40, 49152, 65536, 65536, 0},
        {8, 0, 1024, 2048, 65536, 108, 49152, 167936, 166912, 1024},
        {8, 6, 1024, 1536, 65536, 84, 49152, 102400, 101376, 1024},
        {9, 0, 1024, 2048, 65536, 132, 49152, 233472, 232448, 1024},
        {10, 0, 1024, 2048, 65536, 148, 49152, 233472, 232448, 1024},
        {12, 0, 1024, 1536, 65536, 170, 49152, 102400, 101376, 1024},
    };
    puts("# major minor registers bounds static barriers max_dynamic carveout block dynamic active grid best_block");
    for (int i = 0; i < 600; i++) {
        const int *d = devices[i % 6];
        cudaOccDeviceProp p;
        p.computeMajor = d[0], p.computeMinor = d[1], p.maxThreadsPerBlock = d[2], p.maxThreadsPerMultiprocessor = d[3];
        p.regsPerBlock = p.regsPerMultiprocessor = d[4], p.warpSize = 32, p.numSms = d[5];
        p.sharedMemPerBlock = d[6], p.sharedMemPerMultiprocessor = d[7], p.sharedMemPerBlockOptin = d[8];
        p.reservedSharedMemPerBlock = d[9];
        cudaOccFuncAttributes f;
        f.numRegs = pick(4) ? 1 + pick(255) : 0;
        f.sharedSizeBytes = pick(2) ? pick(49153) : pick(3000);
        bool optin = pick(2);
        f.maxDynamicSharedSizeBytes = optin ? pick(d[8] - f.sharedSizeBytes + 1) : 49152 - f.sharedSizeBytes;
        f.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
        f.numBlockBarriers = pick(17);
        unsigned bounds[] = {1024, 512, 256, 100};
        f.maxThreadsPerBlock = bounds[pick(4)];
        cudaOccDeviceState s;
        int carveouts[] = {-1, -1, -1, 0, 25, 50, 100};
        s.carveoutConfig = carveouts[pick(7)];
        int block = pick(2) ? 32 * (1 + pick(33)) : 1 + pick(1024);
        size_t dynamic = pick(3) ? pick(f.maxDynamicSharedSizeBytes + 1) : pick(4096);
        cudaOccResult r;
        int grid, best;
        if (cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &f, &s, block, dynamic)) return 1;
        if (cudaOccMaxPotentialOccupancyBlockSize(&grid, &best, &p, &f, &s, dynamic)) return 1;
        printf("%d %d %d %d %zu %d %zu %d %d %zu %d %d %d\n", d[0], d[1], f.numRegs, f.maxThreadsPerBlock, f.sharedSizeBytes,
               f.numBlockBarriers, f.maxDynamicSharedSizeBytes, s.carveoutConfig, block, dynamic,
               r.activeBlocksPerMultiprocessor, grid, best);
    }
}
