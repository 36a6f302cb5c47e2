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

// Joins what a pack adds, a value of v each, to a run.
#define JOIN_PACK(OP, run, VALUE_OF_V) run = OP::join(run, in_pairs<OP, V>([&](int v) { return VALUE_OF_V; }));
// Whether a run of packs that stay in registers ends behind this one.
#define ENDS_RUN(j) (((j) + 1) % RUN == 0 || (j) + 1 == ITEMS)

#define ROWWISE(WIDTH) { \
    constexpr int V = WIDTH; \
    const long long items = COLUMNS / V; \
    const A count = (A)COLUMNS; \
    FOR_EACH_ROW { \
        THIS_ROW \
        if (items <= TOGETHER * ITEMS) { \
            Pack<KEPT, V> kept[ITEMS]; \
            A first_sum = Row::start(), first_run = Row::start(); \
            _Pragma("unroll") \
            for (int j = 0; j < ITEMS; ++j) { \
                const int item = lane + j * TOGETHER; \
                if (item < items) { \
                    INNER FETCH_X KEEP_Z \
                    A x[V]; \
                    _Pragma("unroll") \
                    for (int v = 0; v < V; ++v) { \
                        x[v] = (A)VALUE(v); \
                        kept[j].at[v] = KEEP(v, x[v]); \
                    } \
                    if (Row::FIRST) JOIN_PACK(Row::Join, first_run, x[v]) \
                } \
                if (Row::FIRST && ENDS_RUN(j)) first_sum = Row::Join::join(first_sum, first_run), first_run = Row::start(); \
            } \
            const A one = Row::finish(Row::FIRST ? across<Row::Join>(first_sum) : first_sum, count); \
            typename Row::Terms second_sum = {}, second_run = {}; \
            _Pragma("unroll") \
            for (int j = 0; j < ITEMS; ++j) { \
                if (lane + j * TOGETHER < items) { \
                    A x[V]; \
                    _Pragma("unroll") \
                    for (int v = 0; v < V; ++v) { \
                        x[v] = Row::map((A)load(kept[j].at + v), one); \
                        if (!AGAIN) store(kept[j].at + v, x[v]); \
                    } \
                    JOIN_PACK(SumOf, second_run, Row::term(x[v])) \
                } \
                if (ENDS_RUN(j)) second_sum = second_sum + second_run, second_run = {}; \
            } \
            const typename Row::Scale two = Row::scale(across<SumOf, 1>(second_sum), count); \
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
                for (long long item = lane; item < items;) { \
                    const long long end = minimum(items, item + RUN * TOGETHER); \
                    A run = Row::start(); \
                    _Pragma("unroll (V == 2 ? 4 : 2)") \
                    for (; item < end; item += TOGETHER) { \
                        INNER FETCH_X \
                        JOIN_PACK(Row::Join, run, (A)VALUE(v)) \
                    } \
                    first_sum = Row::Join::join(first_sum, run); \
                } \
                first_sum = across<Row::Join>(first_sum); \
            } \
            const A one = Row::finish(first_sum, count); \
            typename Row::Terms second_sum = {}; \
            for (long long item = lane; item < items;) { \
                const long long end = minimum(items, item + RUN * TOGETHER); \
                typename Row::Terms run = {}; \
                _Pragma("unroll (V == 2 ? 4 : 2)") \
                for (; item < end; item += TOGETHER) { \
                    INNER FETCH_X \
                    JOIN_PACK(SumOf, run, Row::term(Row::map((A)VALUE(v), one))) \
                } \
                second_sum = second_sum + run; \
            } \
            const typename Row::Scale two = Row::scale(across<SumOf, 1>(second_sum), count); \
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
