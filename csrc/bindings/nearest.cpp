// The selection of nearest neighbours for Python, on CPUs and GPUs.
#include "../cpu/nearest.h"

#include "core.h"
#ifdef QMK_CUDA
#include "../cuda/nearest.h"
#endif

namespace qmk {

namespace {

template <class T>
const NearestCpu<T>& nearest_cpu() {
#define X(isa) &isa::nearest_float,
    if constexpr (sizeof(T) == sizeof(float)) return in_use<NearestCpu<T>>({QMK_ISAS});
#undef X
#define X(isa) &isa::nearest_double,
    if constexpr (sizeof(T) == sizeof(double)) return in_use<NearestCpu<T>>({QMK_ISAS});
#undef X
}

}  // namespace

void bind_nearest(pybind11::module_& cpu, pybind11::module_* cuda) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;

    cpu.def(
        "nearest_merge",
        [](int item_size, Pointer distances, Pointer values, Pointer indices, int64_t rows, int64_t columns, int64_t k,
           int64_t first, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                nearest_cpu<T>().merge(as<T>(distances), as<T>(values), as<int64_t>(indices), rows, columns, k, first,
                                       threads);
            });
        },
        release());

#ifdef QMK_CUDA
    cuda->def(
        "nearest_merge",
        [](int item_size, Pointer distances, Pointer values, Pointer indices, int64_t rows, int64_t columns, int64_t k,
           int64_t first, int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::nearest_merge<T>(as<T>(distances), as<T>(values), as<int64_t>(indices), rows, columns, k, first,
                                       {device, as<void>(stream)});
            });
        },
        release());
#else
    (void)cuda;
#endif
}

}  // namespace qmk
