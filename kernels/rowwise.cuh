// Rows that are mapped by two statistics of their own: f(map(x, first statistic), second statistic).
//
// `Row` says which. A row that fits in the registers of its group (ITEMS packs a thread) is read once; a longer one is
// read again for each statistic and for the result, which comes from the level-2 cache mostly. What stays in registers is
// in A and mapped once; or AS_READ, where twice as many elements fit, and is mapped again each time.
//
// What KEEP_Z stores of a row, if anything, is stored once: where a row is read for the first time if that is the only time,
// and otherwise at the end, so that it may lie over what the row is read from.

#ifdef AS_READ
typedef NARROW KEPT;
constexpr bool AGAIN = true;
#define KEEP(v, x) AS_IS(v)
#else
typedef A KEPT;
constexpr bool AGAIN = false;
#define KEEP(v, x) x
#endif

#define ROWWISE(WIDTH) { \
    constexpr int V = WIDTH; \
    const long long items = COLUMNS / V; \
    const A count = (A)COLUMNS; \
    FOR_EACH_ROW { \
        THIS_ROW \
        if (items <= TOGETHER * ITEMS) { \
            Pack<KEPT, V> kept[ITEMS]; \
            A first_sum = Row::start(); \
            _Pragma("unroll") \
            for (int j = 0; j < ITEMS; ++j) { \
                const int item = lane + j * TOGETHER; \
                if (item < items) { \
                    INNER FETCH_X KEEP_Z \
                    _Pragma("unroll") \
                    for (int v = 0; v < V; ++v) { \
                        const A x = (A)VALUE(v); \
                        kept[j].at[v] = KEEP(v, x); \
                        first_sum = Row::step(first_sum, x); \
                    } \
                } \
            } \
            const A one = Row::finish(Row::FIRST ? across<Row::Join>(first_sum) : first_sum, count); \
            A second_sum = 0; \
            _Pragma("unroll") \
            for (int j = 0; j < ITEMS; ++j) { \
                if (lane + j * TOGETHER < items) { \
                    _Pragma("unroll") \
                    for (int v = 0; v < V; ++v) { \
                        const A x = Row::map((A)load(kept[j].at + v), one); \
                        second_sum += Row::term(x); \
                        if (!AGAIN) store(kept[j].at + v, x); \
                    } \
                } \
            } \
            const A two = Row::scale(across<SumOf, 1>(second_sum), count); \
            /* positions are worked out again, rather than kept in registers from the first loop on */ \
            int start = lane; \
            asm("" : "+r"(start)); \
            if (live) { \
                _Pragma("unroll") \
                for (int j = 0; j < ITEMS; ++j) { \
                    const int item = start + j * TOGETHER; \
                    if (item < items) { \
                        INNER FETCH_E \
                        Pack<Y, V> pack; \
                        _Pragma("unroll") \
                        for (int v = 0; v < V; ++v) { \
                            const A x = (A)load(kept[j].at + v); \
                            store(pack.at + v, RESULT(v, (P)Row::apply(AGAIN ? Row::map(x, one) : x, two))); \
                        } \
                        STORE \
                    } \
                } \
            } \
        } else { \
            A first_sum = Row::start(); \
            if (Row::FIRST) { \
                _Pragma("unroll (V == 2 ? 4 : 2)") \
                for (long long item = lane; item < items; item += TOGETHER) { \
                    INNER FETCH_X \
                    _Pragma("unroll") \
                    for (int v = 0; v < V; ++v) first_sum = Row::step(first_sum, (A)VALUE(v)); \
                } \
                first_sum = across<Row::Join>(first_sum); \
            } \
            const A one = Row::finish(first_sum, count); \
            A second_sum = 0; \
            _Pragma("unroll (V == 2 ? 4 : 2)") \
            for (long long item = lane; item < items; item += TOGETHER) { \
                INNER FETCH_X \
                _Pragma("unroll") \
                for (int v = 0; v < V; ++v) second_sum += Row::term(Row::map((A)VALUE(v), one)); \
            } \
            const A two = Row::scale(across<SumOf, 1>(second_sum), count); \
            if (live) { \
                for (long long item = lane; item < items; item += TOGETHER) { \
                    INNER FETCH_X FETCH_E KEEP_Z \
                    Pack<Y, V> pack; \
                    _Pragma("unroll") \
                    for (int v = 0; v < V; ++v) \
                        store(pack.at + v, RESULT(v, (P)Row::apply(Row::map((A)VALUE(v), one), two))); \
                    STORE \
                } \
            } \
        } \
        meet_cluster(); \
    } \
}
