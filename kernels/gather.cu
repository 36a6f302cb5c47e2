// y[p] = epilogue(x[p, i[p, 0], i[p, 1] …], e…[p]), or epilogue(0, e…[p]) where an index lies outside
//
// Where indices choose rows, and VECTORS says that rows are whole, VEC elements along the last axis move in one instruction.
// The template prints Lanes, what V positions read, as words; FETCH_EXTRAS, which loads the epilogue's operands; UNPACK, which
// takes the words apart; and FINISH.

struct Chosen { INDEX at[TUPLE > 0 ? TUPLE : 1]; };

#define GATHER(WIDTH, CHANNELS) { \
    constexpr int V = WIDTH; \
    walk<V, Chosen, Lanes<V>>( \
        extent, CHANNELS, \
        [&](const int (&p)[AXES]) { \
            const long long from = AT_i(p); \
            Chosen chosen; \
            _Pragma("unroll") \
            for (int j = 0; j < TUPLE; ++j) chosen.at[j] = i[from + j * i_t]; \
            return chosen; \
        }, \
        [&](const int (&p)[AXES], const Chosen& chosen) { \
            long long at = AT_x(p); \
            bool inside = true; \
            _Pragma("unroll") \
            for (int j = 0; j < TUPLE; ++j) { \
                long long k = chosen.at[j]; \
                if (k < 0) k += reach[j]; \
                inside = inside && k >= 0 && k < reach[j]; \
                /* an extent is an int, and so is what lies inside */ \
                at += (int)k * along[j]; \
            } \
            Lanes<V> lanes = {}; \
            if (inside) lanes.x = fetch_words<V>(x + at, ALONG_x); \
            FETCH_EXTRAS(lanes, p) \
            return lanes; \
        }, \
        [&](const int (&p)[AXES], const Lanes<V>& lanes) { \
            UNPACK(lanes) \
            Pack<RESULT, V> pack; \
            _Pragma("unroll") \
            for (int v = 0; v < V; ++v) store(pack.at + v, FINISH(v, p)); \
            put(y + AT_y(p), pack); \
        }); \
}

KERNEL {
    ARGUMENTS
    const int extent[AXES] = EXTENTS;
    const int reach[] = INDEXED_EXTENTS;
    const long long along[] = INDEXED_STRIDES;
    if (VECTORS) GATHER(VEC, false) else GATHER(1, CHANNELS_LAST)
}
