// y[p, i[p, 0], i[p, 1] …] = combine(what is there, u[p]); updates outside are dropped

// Reads, combines and writes one element as a single step: on the words that the hardware can exchange, 32 or 64 bits.
template <typename T> __device__ __forceinline__ void update(T* at, VALUE v) {
    if constexpr (sizeof(T) == 8) {
        unsigned long long* word = (unsigned long long*)at;
        unsigned long long seen = *word, next;
        do {
            T old = *(T*)&seen, now;
            store(&now, combine(LOAD_y(&old), v));
            next = *(unsigned long long*)&now;
            if (next == seen) return;
            const unsigned long long before = seen;
            seen = atomicCAS(word, before, next);
            if (seen == before) return;
        } while (true);
    } else {
        // an element of less than a word shares it with its neighbours
        unsigned int* word = (unsigned int*)((unsigned long long)at & ~3ull);
        const int shift = (int)((unsigned long long)at & 3) * 8;
        const unsigned int mask = (unsigned int)(0xffffffffull >> (32 - 8 * sizeof(T)));
        unsigned int seen = *word;
        do {
            const unsigned int part = (seen >> shift) & mask;
            T old = *(const T*)&part, now;
            store(&now, combine(LOAD_y(&old), v));
            unsigned int bits = 0;
            *(T*)&bits = now;
            const unsigned int next = (seen & ~(mask << shift)) | (bits << shift);
            if (next == seen) return;
            const unsigned int before = seen;
            seen = atomicCAS(word, before, next);
            if (seen == before) return;
        } while (true);
    }
}
#ifdef NATIVE_ADD
__device__ __forceinline__ void update(float* at, float v) { atomicAdd(at, v); }
__device__ __forceinline__ void update(double* at, double v) { atomicAdd(at, v); }
__device__ __forceinline__ void update(int* at, int v) { atomicAdd(at, v); }
__device__ __forceinline__ void update(unsigned int* at, unsigned int v) { atomicAdd(at, v); }
#endif

struct Update {
    long long at;
    VALUE v;
};

KERNEL {
    ARGUMENTS
    const int extent[AXES] = EXTENTS;
    const int reach[] = INDEXED_EXTENTS;
    const long long along[] = INDEXED_STRIDES;
    walk<Update>(
        extent, false,
        [&](const int (&p)[AXES]) -> Update {
            const long long from = AT_i(p);
            Update result;
            result.at = AT_y(p);
            bool inside = true;
#pragma unroll
            for (int j = 0; j < TUPLE; ++j) {
                long long k = (long long)i[from + j * i_t];
                if (k < 0) k += reach[j];
                inside = inside && k >= 0 && k < reach[j];
                result.at += k * along[j];
            }
            if (!inside) result.at = -1;
            result.v = LOAD_u(AT_u(p));
            return result;
        },
        [&](const int (&)[AXES], const Update& one) {
            if (one.at < 0) return;
            if constexpr (REPLACE) {
                store(y + one.at, one.v);
            } else {
                update(y + one.at, one.v);
            }
        });
}
