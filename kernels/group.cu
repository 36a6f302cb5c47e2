// Several elementwise steps that do not need one another, in one launch.
//
// The template prints a namespace for each part: chunks(…), how many chunks of THREADS * ITEMS vectors (or elements) its work
// is, and walk(block, blocks, …), which does the chunks of one of so many blocks. The chunks of all parts lie in one row, in
// which a block takes every gridDim.x-th. PARTS does PART for each part, so that the arguments of one are not held for others.

// the chunks of a part: those from `begin` on; `chunk` is the first that is left to this block
#define PART(part, ...) { \
    const unsigned int end = begin + part::chunks(__VA_ARGS__); \
    if (chunk < end) { \
        part::walk(chunk - begin, gridDim.x, __VA_ARGS__); \
        chunk += ((end - chunk - 1) / gridDim.x + 1) * gridDim.x; \
    } \
    begin = end; \
}

KERNEL {
    ARGUMENTS
    unsigned int chunk = blockIdx.x, begin = 0;
    PARTS
}
