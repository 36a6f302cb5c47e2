// What every kernel may use. Header-free: NVRTC compiles it in milliseconds.

struct alignas(2) f16 { unsigned short bits; };
struct alignas(2) bf16 { unsigned short bits; };

__device__ __forceinline__ float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned int)x.bits << 16); }

__device__ __forceinline__ f16 to_f16(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
// round to nearest even without hardware support (sm_75)
__device__ __forceinline__ bf16 to_bf16(float x) {
    unsigned int u = __float_as_uint(x);
    bf16 y;
    y.bits = (x != x) ? 0x7fff : (unsigned short)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
    return y;
}

// Loading widens narrow floats to float and bytes of bool to bool; storing narrows again.
__device__ __forceinline__ float load(const f16* p) { return to_float(*p); }
__device__ __forceinline__ float load(const bf16* p) { return to_float(*p); }
template <typename T> __device__ __forceinline__ T load(const T* p) { return *p; }
__device__ __forceinline__ void store(f16* p, float x) { *p = to_f16(x); }
__device__ __forceinline__ void store(bf16* p, float x) { *p = to_bf16(x); }
template <typename T, typename U> __device__ __forceinline__ void store(T* p, U x) { *p = (T)x; }

template <typename T> __device__ __forceinline__ T minimum(T a, T b) { return a < b ? a : b; }
template <typename T> __device__ __forceinline__ T maximum(T a, T b) { return a > b ? a : b; }
__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }
