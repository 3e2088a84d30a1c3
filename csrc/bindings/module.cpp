// The Python module qmkernels._core.
#include <pybind11/stl.h>

#include "core.h"

namespace {

pybind11::dict build_info() {
    pybind11::dict info;
    info["version"] = QMK_VERSION;
    info["compiler"] = __VERSION__;
    pybind11::list isas;
#define X(name) isas.append(#name);
    QMK_ISAS
#undef X
    info["isas"] = isas;
#ifdef QMK_OPENMP
    info["openmp"] = true;
#else
    info["openmp"] = false;
#endif
#ifdef QMK_CUDA
    info["cuda_architectures"] = QMK_CUDA_ARCHITECTURES;
#else
    info["cuda_architectures"] = pybind11::none();
#endif
    return info;
}

}  // namespace

PYBIND11_MODULE(_core, module) {
    module.def("build_info", build_info);
    module.def("isa_in_use", [] { return std::string(qmk::name_of(qmk::isa_in_use())); });
    auto cpu = module.def_submodule("cpu");
#ifdef QMK_CUDA
    auto cuda = module.def_submodule("cuda");
    auto* cuda_or_null = &cuda;
#else
    pybind11::module_* cuda_or_null = nullptr;
#endif
    qmk::bind_fsq(cpu, cuda_or_null);
    qmk::bind_iqe(cpu, cuda_or_null);
    qmk::bind_latent_dynamics(cpu, cuda_or_null);
    qmk::bind_metra(cpu, cuda_or_null);
    qmk::bind_mrn(cpu, cuda_or_null);
    qmk::bind_nearest(cpu, cuda_or_null);
    qmk::bind_pair_loss(cpu, cuda_or_null);
    qmk::bind_poisson(cpu, cuda_or_null);
    qmk::bind_pqe(cpu, cuda_or_null);
    qmk::bind_qrl_critic(cpu, cuda_or_null);
    qmk::bind_temporal_consistency(cpu, cuda_or_null);
}
