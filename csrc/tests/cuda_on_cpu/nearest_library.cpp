// The CUDA kernels that select nearest neighbours.
#include "../../cuda/nearest.cu"
#include "library.h"

extern "C" {

void nearest_merge(int64_t item_size, const void* distances, void* values, void* indices, int64_t rows, int64_t columns,
                   int64_t k, int64_t first) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::nearest_merge<T>(in<T>(distances), out<T>(values), out<int64_t>(indices), rows, columns, k, first,
                                    context);
    });
}
}
