// MRN's functions for Python: the same arguments for `cpu` and `cuda`, but for what comes last: the number of threads
// on the CPU, the device and the stream on a GPU. The form is spread out in the order of definitions.mrn.MrnSettings.
#include "../cpu/mrn.h"

#include "core.h"
#ifdef QMK_CUDA
#include "../cuda/mrn.h"
#endif

namespace qmk {

namespace {

template <class T>
const MrnCpu<T>& mrn_cpu() {
#define X(isa) &isa::mrn_float,
    if constexpr (sizeof(T) == sizeof(float)) return in_use<MrnCpu<T>>({QMK_ISAS});
#undef X
#define X(isa) &isa::mrn_double,
    if constexpr (sizeof(T) == sizeof(double)) return in_use<MrnCpu<T>>({QMK_ISAS});
#undef X
}

MrnSettings form_of(int64_t num_components, int asymmetric, bool mean_of_squares, double exponent, double eps,
                    int eps_form, int reduction, double scale) {
    return {num_components,
            MrnAsymmetric(asymmetric),
            mean_of_squares,
            exponent,
            eps,
            MrnEps(eps_form),
            MrnReduction(reduction),
            scale};
}

}  // namespace

void bind_mrn(pybind11::module_& cpu, pybind11::module_* cuda) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;

    cpu.def(
        "mrn_forward",
        [](int item_size, Pointer x, Pointer y, Pointer out, int64_t rows, int64_t dim, int64_t num_components,
           int asymmetric, bool mean_of_squares, double exponent, double eps, int eps_form, int reduction, double scale,
           int threads) {
            const auto settings =
                form_of(num_components, asymmetric, mean_of_squares, exponent, eps, eps_form, reduction, scale);
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                mrn_cpu<T>().forward(as<T>(x), as<T>(y), as<T>(out), rows, dim, settings, threads);
            });
        },
        release());
    cpu.def(
        "mrn_backward",
        [](int item_size, Pointer grad_out, Pointer x, Pointer y, Pointer grad_x, Pointer grad_y, int64_t rows,
           int64_t dim, int64_t num_components, int asymmetric, bool mean_of_squares, double exponent, double eps,
           int eps_form, int reduction, double scale, int threads) {
            const auto settings =
                form_of(num_components, asymmetric, mean_of_squares, exponent, eps, eps_form, reduction, scale);
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                mrn_cpu<T>().backward(as<T>(grad_out), as<T>(x), as<T>(y), as<T>(grad_x), as<T>(grad_y), rows, dim,
                                      settings, threads);
            });
        },
        release());
    cpu.def("mrn_pairwise_workspace",
            [](int item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t dim, int64_t, bool backward) {
                return with_item_type(item_size, [&](auto item) {
                    return mrn_cpu<decltype(item)>().pairwise_workspace({batch, num_x, num_y, dim}, backward);
                });
            });
    cpu.def(
        "mrn_pairwise_forward",
        [](int item_size, Pointer x, Pointer y, Pointer out, Pointer workspace, int64_t batch, int64_t num_x,
           int64_t num_y, int64_t dim, int64_t num_components, int asymmetric, bool mean_of_squares, double exponent,
           double eps, int eps_form, int reduction, double scale, int threads) {
            const auto settings =
                form_of(num_components, asymmetric, mean_of_squares, exponent, eps, eps_form, reduction, scale);
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                mrn_cpu<T>().pairwise_forward(as<T>(x), as<T>(y), as<T>(out), as<void>(workspace),
                                              {batch, num_x, num_y, dim}, settings, threads);
            });
        },
        release());
    cpu.def(
        "mrn_pairwise_backward",
        [](int item_size, Pointer grad_out, Pointer x, Pointer y, Pointer grad_x, Pointer grad_y, Pointer workspace,
           int64_t batch, int64_t num_x, int64_t num_y, int64_t dim, int64_t num_components, int asymmetric,
           bool mean_of_squares, double exponent, double eps, int eps_form, int reduction, double scale, int threads) {
            const auto settings =
                form_of(num_components, asymmetric, mean_of_squares, exponent, eps, eps_form, reduction, scale);
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                mrn_cpu<T>().pairwise_backward(as<T>(grad_out), as<T>(x), as<T>(y), as<T>(grad_x), as<T>(grad_y),
                                               as<void>(workspace), {batch, num_x, num_y, dim}, settings, threads);
            });
        },
        release());

#ifdef QMK_CUDA
    cuda->def(
        "mrn_forward",
        [](int item_size, Pointer x, Pointer y, Pointer out, int64_t rows, int64_t dim, int64_t num_components,
           int asymmetric, bool mean_of_squares, double exponent, double eps, int eps_form, int reduction, double scale,
           int device, Pointer stream) {
            const auto settings =
                form_of(num_components, asymmetric, mean_of_squares, exponent, eps, eps_form, reduction, scale);
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::mrn_forward<T>(as<T>(x), as<T>(y), as<T>(out), rows, dim, settings, {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "mrn_backward",
        [](int item_size, Pointer grad_out, Pointer x, Pointer y, Pointer grad_x, Pointer grad_y, int64_t rows,
           int64_t dim, int64_t num_components, int asymmetric, bool mean_of_squares, double exponent, double eps,
           int eps_form, int reduction, double scale, int device, Pointer stream) {
            const auto settings =
                form_of(num_components, asymmetric, mean_of_squares, exponent, eps, eps_form, reduction, scale);
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::mrn_backward<T>(as<T>(grad_out), as<T>(x), as<T>(y), as<T>(grad_x), as<T>(grad_y), rows, dim,
                                      settings, {device, as<void>(stream)});
            });
        },
        release());
    cuda->def("mrn_pairwise_workspace", [](int item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t dim,
                                           int64_t num_components, bool backward) {
        return cuda::mrn_pairwise_workspace(item_size, batch, num_x, num_y, dim, num_components, backward);
    });
    cuda->def(
        "mrn_pairwise_forward",
        [](int item_size, Pointer x, Pointer y, Pointer out, Pointer workspace, int64_t batch, int64_t num_x,
           int64_t num_y, int64_t dim, int64_t num_components, int asymmetric, bool mean_of_squares, double exponent,
           double eps, int eps_form, int reduction, double scale, int device, Pointer stream) {
            const auto settings =
                form_of(num_components, asymmetric, mean_of_squares, exponent, eps, eps_form, reduction, scale);
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::mrn_pairwise_forward<T>(as<T>(x), as<T>(y), as<T>(out), as<void>(workspace), batch, num_x, num_y,
                                              dim, settings, {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "mrn_pairwise_backward",
        [](int item_size, Pointer grad_out, Pointer x, Pointer y, Pointer grad_x, Pointer grad_y, Pointer workspace,
           int64_t batch, int64_t num_x, int64_t num_y, int64_t dim, int64_t num_components, int asymmetric,
           bool mean_of_squares, double exponent, double eps, int eps_form, int reduction, double scale, int device,
           Pointer stream) {
            const auto settings =
                form_of(num_components, asymmetric, mean_of_squares, exponent, eps, eps_form, reduction, scale);
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::mrn_pairwise_backward<T>(as<T>(grad_out), as<T>(x), as<T>(y), as<T>(grad_x), as<T>(grad_y),
                                               as<void>(workspace), batch, num_x, num_y, dim, settings,
                                               {device, as<void>(stream)});
            });
        },
        release());
#else
    (void)cuda;
#endif
}

}  // namespace qmk
