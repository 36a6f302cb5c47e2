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
__device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 y;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    // round to nearest even without hardware support
    unsigned int u = __float_as_uint(x);
    y.bits = (x != x) ? 0x7fff : (unsigned short)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
#endif
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

// The instructions of expressions that C has no operator for, with the meaning that the host gives them.

// NaN wins over every number
template <typename T> __device__ __forceinline__ T nan_min(T a, T b) { return (a < b || a != a) ? a : b; }
template <typename T> __device__ __forceinline__ T nan_max(T a, T b) { return (a > b || a != a) ? a : b; }
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ float nan_min(float a, float b) {
    float y;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
__device__ __forceinline__ float nan_max(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
#endif

template <typename T> __device__ __forceinline__ T sign_of(T x) { return x > 0 ? (T)1 : x < 0 ? (T)-1 : x; }
// 2^x, e^x and 1/x as the special function unit has them, one instruction each: within 2^-22, and what is subnormal is 0,
// where __expf and __fdividef scale before and after for its sake
__device__ __forceinline__ float quick_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float quick_exp(float x) { return quick_exp2(1.44269504f * x); }
__device__ __forceinline__ float quick_reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float sigmoid(float x) { return quick_reciprocal(1.0f + quick_exp(-x)); }
__device__ __forceinline__ double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
// Precise enough for results of 11 bits or less, within 2^-14 of every value: where the difference would cancel, the
// beginning of the series is as good. Both sides are cheap, so that they are computed and one is taken, without a branch.
__device__ __forceinline__ float narrow_tanh(float x) {
    const float far = fmaf(-2.0f, quick_reciprocal(1.0f + quick_exp2(2.88539008f * x)), 1.0f);
    return fabsf(x) < 0.0078125f ? x : far;
}
// the same: 1 - erf(a) is 2 to a polynomial, fitted up to a = 4, beyond which it falls, and nothing is left of it
__device__ __forceinline__ float narrow_erf(float x) {
    const float a = fabsf(x);
    const float power = a * (-1.62793092f + a * (-0.917778184f + a * (-0.151265718f + a * (0.0330278764f + a * (-0.00488704246f
        + a * (0.000423055199f + a * -1.57057066e-05f))))));
    const float far = copysignf(1.0f - quick_exp2(power), x);
    return a < 0.0078125f ? 1.12837917f * x : far;
}
__device__ __forceinline__ float floor_mod(float a, float b) {
    const float r = fmodf(a, b);
    return (r != 0 && (r < 0) != (b < 0)) ? r + b : r;
}
__device__ __forceinline__ double floor_mod(double a, double b) {
    const double r = fmod(a, b);
    return (r != 0 && (r < 0) != (b < 0)) ? r + b : r;
}

// the unsigned type of the same width, in which overflow wraps
template <typename T> struct Unsigned { typedef unsigned int type; };
template <> struct Unsigned<long long> { typedef unsigned long long type; };
template <> struct Unsigned<unsigned long long> { typedef unsigned long long type; };
template <typename T> __device__ __forceinline__ T wrap_add(T a, T b) {
    typedef typename Unsigned<T>::type U;
    return (T)((U)a + (U)b);
}
template <typename T> __device__ __forceinline__ T wrap_sub(T a, T b) {
    typedef typename Unsigned<T>::type U;
    return (T)((U)a - (U)b);
}
template <typename T> __device__ __forceinline__ T wrap_mul(T a, T b) {
    typedef typename Unsigned<T>::type U;
    return (T)((U)a * (U)b);
}
template <typename T> __device__ __forceinline__ T int_div(T a, T b) {
    if (b == 0) return 0;
    if ((T)-1 < 0 && b == (T)-1) return wrap_sub((T)0, a);
    return a / b;
}
template <typename T> __device__ __forceinline__ T int_rem(T a, T b) {
    if (b == 0 || ((T)-1 < 0 && b == (T)-1)) return 0;
    return a % b;
}
template <typename T> __device__ __forceinline__ T int_mod(T a, T b) {
    const T r = int_rem(a, b);
    return (r != 0 && (r < 0) != (b < 0)) ? (T)(r + b) : r;
}
// by squaring; a negative exponent leaves what the reciprocal truncates to
template <typename T> __device__ __forceinline__ T int_pow(T a, T b) {
    if (b < 0) return a == 1 ? (T)1 : a == (T)-1 ? ((b & 1) ? a : (T)1) : (T)0;
    T y = 1;
    while (b > 0) {
        if (b & 1) y = wrap_mul(y, a);
        a = wrap_mul(a, a);
        b >>= 1;
    }
    return y;
}
template <typename T> __device__ __forceinline__ T int_shl(T a, T b) {
    typedef typename Unsigned<T>::type U;
    return (b < 0 || b >= (T)(8 * sizeof(T))) ? (T)0 : (T)((U)a << b);
}
template <typename T> __device__ __forceinline__ T int_shr(T a, T b) {
    return (b < 0 || b >= (T)(8 * sizeof(T))) ? (a < 0 ? (T)-1 : (T)0) : (T)(a >> b);
}

// Conversion of a float to an integer: truncates, saturates, NaN is 0.
template <typename T> struct Limits { static constexpr int low = 0, high = 0; };
template <> struct Limits<signed char> { static constexpr int low = -128, high = 127; };
template <> struct Limits<unsigned char> { static constexpr int low = 0, high = 255; };
template <> struct Limits<short> { static constexpr int low = -32768, high = 32767; };
template <> struct Limits<unsigned short> { static constexpr int low = 0, high = 65535; };
template <typename T, typename F> __device__ __forceinline__ T saturate(F x) {
    // the hardware's conversion saturates too, but only to 32 and 64 bits, and only some make 0 of NaN
    if (!(x == x)) return 0;
    if (sizeof(T) < 4) {
        const int y = (int)x;
        return (T)(y < Limits<T>::low ? Limits<T>::low : y > Limits<T>::high ? Limits<T>::high : y);
    }
    return (T)x;
}

// Several elements that are moved by one instruction.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack { T at[N]; };
template <int N, typename T> __device__ __forceinline__ bool is_aligned(const T* p) {
    return (unsigned long long)p % (N * sizeof(T)) == 0;
}
// Whether packs of VEC elements begin at p + offset. A specialised kernel is only run where tensors begin at multiples of 16
// bytes, so that this is known to the compiler, which then leaves out the code for single elements.
#define STARTS_WHOLE(p, offset) (KNOWN && VEC * sizeof(*(p)) <= 16 ? (offset) % VEC == 0 : is_aligned<VEC>((p) + (offset)))
// N elements along an axis with stride 1 (aligned) or 0; for N = 1 any stride
template <typename T, int N> __device__ __forceinline__ void fetch(Pack<T, N>& pack, const T* p, long long stride) {
    if (N > 1 && stride != 0) {
        pack = *(const Pack<T, N>*)p;
    } else {
        const T x = *p;
        #pragma unroll
        for (int i = 0; i < N; ++i) pack.at[i] = x;
    }
}
// A pack to a tensor in one instruction, spelled out because the compiler takes a pack apart and does not always put it
// together again.
template <int BYTES> struct Words { unsigned int at[BYTES / 4]; };
template <> struct Words<2> { unsigned short at[1]; };
template <> struct Words<1> { unsigned char at[1]; };
__device__ __forceinline__ void put(void* p, const Words<16>& w) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
        :: "l"(__cvta_generic_to_global(p)), "r"(w.at[0]), "r"(w.at[1]), "r"(w.at[2]), "r"(w.at[3]));
}
__device__ __forceinline__ void put(void* p, const Words<8>& w) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" :: "l"(__cvta_generic_to_global(p)), "r"(w.at[0]), "r"(w.at[1]));
}
__device__ __forceinline__ void put(void* p, const Words<4>& w) {
    asm volatile("st.global.b32 [%0], %1;" :: "l"(__cvta_generic_to_global(p)), "r"(w.at[0]));
}
__device__ __forceinline__ void put(void* p, const Words<2>& w) { *(unsigned short*)p = w.at[0]; }
__device__ __forceinline__ void put(void* p, const Words<1>& w) { *(unsigned char*)p = w.at[0]; }
// A pack as words and back. Words are not taken apart, so that a load whose result is kept in them is not waited for.
template <typename T, int N> __device__ __forceinline__ Words<sizeof(T) * N> to_words(const Pack<T, N>& pack) {
    Words<sizeof(T) * N> words;
    memcpy(&words, &pack, sizeof(words));
    return words;
}
template <typename T, int N> __device__ __forceinline__ Pack<T, N> from_words(const Words<sizeof(T) * N>& words) {
    Pack<T, N> pack;
    memcpy(&pack, &words, sizeof(pack));
    return pack;
}
template <typename T, int N> __device__ __forceinline__ void put(T* p, const Pack<T, N>& pack) {
    put((void*)p, to_words(pack));
}
// as the fetch of a pack
template <int N, typename T> __device__ __forceinline__ Words<sizeof(T) * N> fetch_words(const T* p, long long stride) {
    Pack<T, N> pack;
    fetch(pack, p, stride);
    return to_words(pack);
}
// to shared memory, in one instruction, where a pack of T fits
template <typename T, int N> __device__ __forceinline__ void put_shared(T* p, const Words<sizeof(T) * N>& words) {
    struct alignas(sizeof(T) * N) Line { Words<sizeof(T) * N> words; };
    *(Line*)p = Line{words};
}
