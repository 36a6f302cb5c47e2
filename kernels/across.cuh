// Tiles of ROWS positions along axis ACROSS and COLUMNS along the last axis, for operands that lie along ACROSS: those of
// CROSSING, one bit each. A block loads a tile of each, READ elements at a time along ACROSS, into shared memory, and computes
// results WIDTH at a time along the last axis. Both sides move lines of 128 bytes: ROWS elements of the widest type.

#ifdef ACROSS
#define JOINED(a, b) a##b
#define JOIN(a, b) JOINED(a, b)
#define CROSSES(number) ((CROSSING >> number) & 1)
#define PER(axis) (axis == ACROSS ? ROWS : axis == LAST ? COLUMNS : 1)
#define COUNT(axis) ((d##axis - 1) / PER(axis) + 1)

// Where an element lies. Lines change the places of their chunks (what is loaded at once, at least a bank's 4 bytes) from one
// vector of results to the next, so that those who read down a column at the same time meet different banks.
template <int SIZE> __device__ __forceinline__ unsigned int place(unsigned int row, unsigned int column) {
    constexpr unsigned int CHUNK = READ > 4 / SIZE ? READ : 4 / SIZE;
    constexpr unsigned int CHUNKS = ROWS / CHUNK;
    return column * ROWS + ((row / CHUNK) ^ (column / WIDTH % CHUNKS)) * CHUNK + row % CHUNK;
}
// Vectors that a thread moves together: loads are long in flight, and what comes out of shared memory is not.
__device__ constexpr int together(int vector, int most) {
    const int all = ROWS * COLUMNS / vector / THREADS;
    return all < most ? all : most;
}
constexpr int LOADS = together(READ, READ > 1 ? 4 : 8), STORES = together(WIDTH, WIDTH > 1 ? 1 : 4);

#define TILE(number, name, type, index, along) \
    __shared__ __align__(16) type name##_tile[CROSSES(number) ? ROWS * COLUMNS : 1];
#define HOLD(number, name, type, index, along) Words<sizeof(type) * READ> name##_w[N];
#define LOAD(number, name, type, index, along) \
    if constexpr (CROSSES(number)) name##_w[j] = fetch_words<READ>(name + (index), 1);
#define KEEP(number, name, type, index, along) \
    if constexpr (CROSSES(number)) put_shared<type, READ>(name##_tile + place<sizeof(type)>(row, column), name##_w[j]);
#define TAKE(number, name, type, index, along) \
    if constexpr (CROSSES(number)) { \
        _Pragma("unroll") \
        for (int v = 0; v < V; ++v) name##_v[j].at[v] = name##_tile[place<sizeof(type)>(row, column) + v * ROWS]; \
    } else { \
        fetch(name##_v[j], name + (index), along); \
    }

// Row and column of vector n: loads go down columns, stores along rows of squares.
#define LOADED \
    const unsigned int n = (first + j) * THREADS + threadIdx.x; \
    const unsigned int row = n % (ROWS / READ) * READ, column = n / (ROWS / READ);
#define STORED \
    const unsigned int n = (first + j) * THREADS + threadIdx.x, row = n / (ROWS / WIDTH) % ROWS; \
    const unsigned int column = n % (ROWS / WIDTH) * WIDTH + n / (ROWS / WIDTH * ROWS) * ROWS;
#define MOVE LOCATE JOIN(i, ACROSS)[j] += row; JOIN(i, LAST)[j] += column;
#define INSIDE (JOIN(i, ACROSS)[j] < (Index)JOIN(d, ACROSS) && JOIN(i, LAST)[j] < (Index)JOIN(d, LAST))

#define WALK_TILES(INDEX) { \
    constexpr int V = WIDTH; \
    typedef INDEX Index; \
    _Pragma("unroll 1") \
    for (Index item = blockIdx.x; item < (Index)COUNTS; item += gridDim.x) { \
        _Pragma("unroll 1") \
        for (unsigned int first = 0; first < ROWS * COLUMNS / READ / THREADS; first += LOADS) { \
            constexpr int N = LOADS; \
            POSITIONS READS(HOLD) \
            _Pragma("unroll") \
            for (int j = 0; j < N; ++j) { LOADED MOVE if (INSIDE) { READS(LOAD) } } \
            _Pragma("unroll") \
            for (int j = 0; j < N; ++j) { LOADED if (INSIDE) { READS(KEEP) } } \
        } \
        __syncthreads(); \
        _Pragma("unroll 1") \
        for (unsigned int first = 0; first < ROWS * COLUMNS / WIDTH / THREADS; first += STORES) { \
            constexpr int N = STORES; \
            POSITIONS READS(DECLARE) \
            _Pragma("unroll") \
            for (int j = 0; j < N; ++j) { STORED MOVE if (INSIDE) { READS(TAKE) } } \
            _Pragma("unroll") \
            for (int j = 0; j < N; ++j) { if (INSIDE) { STORE } } \
        } \
        __syncthreads(); \
    } \
}
#else
#define PER(axis) STEPS_##axis
#define COUNT(axis) (d##axis / STEPS_##axis)
#endif

