// The kernels of the test images; README.md tells how they are compiled.
struct Pair { double a; int b; };
struct Big { float v[1000]; };

__device__ int counter = 7;
__device__ float table[64];
__device__ unsigned char odd[3] = {1, 2, 3};
__device__ int *pointer_to_counter = &counter;
static __device__ long long hidden = -2;
__constant__ float coef[16] = {1.0f, 2.0f, 3.0f};
__constant__ int flag;
__managed__ int shared_with_host = 5;

extern "C" __global__ void empty() {}

extern "C" __global__ void many(char a, short b, int c, long long d, float *p, double e, char f, Pair s) {
    p[threadIdx.x] = a + b + c + d + e + f + s.a + s.b;
}

extern "C" __global__ void by_value(Big big, float *out) { out[threadIdx.x] = big.v[threadIdx.x]; }

extern "C" __global__ void tail(float *p, char c) { p[threadIdx.x] = c; }

extern "C" __global__ void __launch_bounds__(128, 2) bounded(float *p) { p[threadIdx.x] *= coef[threadIdx.x & 15]; }

extern "C" __global__ void static_shared(float *p) {
    __shared__ float s[512];
    s[threadIdx.x] = p[threadIdx.x];
    __syncthreads();
    p[threadIdx.x] = s[511 - threadIdx.x];
}

extern "C" __global__ void both_shared(float *p) {
    extern __shared__ float d[];
    __shared__ float s[100];
    d[threadIdx.x] = p[threadIdx.x];
    s[threadIdx.x] = p[threadIdx.x + 1];
    __syncthreads();
    p[threadIdx.x] = d[31 - threadIdx.x] + s[99 - threadIdx.x];
}

extern "C" __global__ void local_array(int *p, int n) {
    int a[100];
    for (int i = 0; i < n; i++) a[i] = p[i] * n;
    p[threadIdx.x] = a[p[threadIdx.x] % 100];
}

__device__ __noinline__ int helper(int *p, int n) {
    int a[30];
    for (int i = 0; i < n; i++) a[i] = p[i] * n;
    return a[p[threadIdx.x] % 30];
}

extern "C" __global__ void calls(int *p, int n) {
    int a[20];
    for (int i = 0; i < n; i++) a[i] = p[i] + n;
    p[threadIdx.x] = helper(p, n) + a[p[threadIdx.x + 1] % 20];
}

__device__ __noinline__ int deep(int x, int n) { return n <= 0 ? x : deep(x * 3, n - 1) + x; }

extern "C" __global__ void recursive(int *p) { p[threadIdx.x] = deep(p[threadIdx.x], p[0]); }

extern "C" __global__ void globals(float *p) {
    table[threadIdx.x] = counter + odd[threadIdx.x % 3] + flag + *pointer_to_counter + hidden + shared_with_host;
    p[threadIdx.x] = table[63 - threadIdx.x];
    hidden += 1;
}

template <typename T> __global__ void fill(T *p, T x) { p[threadIdx.x] = x; }
template __global__ void fill<double>(double *, double);

#if __CUDA_ARCH__ >= 900
extern "C" __global__ void __cluster_dims__(2, 1, 1) clustered(int *p) { p[threadIdx.x] = blockIdx.x; }
#endif
