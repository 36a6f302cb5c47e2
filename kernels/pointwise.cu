// One elementwise step: pointwise.cuh says how, across.cuh how for operands that lie along another axis.

KERNEL {
    ARGUMENTS
#ifdef ACROSS
    READS(TILE)
    if (TOTAL >= FAR) WALK_TILES(unsigned long long) else WALK_TILES(unsigned int)
#elif defined(SPAN)
    if (TOTAL >= FAR) WALK(WIDTH, unsigned long long, blockIdx.x, gridDim.x)
    else WALK(WIDTH, unsigned int, blockIdx.x, gridDim.x)
#else
    WALK_LINES(blockIdx.x, gridDim.x)
#endif
}
