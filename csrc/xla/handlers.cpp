#include "handlers.h"

#include <exception>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>

#include "../call_memory.h"
#include "frame.h"
#include "ops.h"  // made by the build from csrc/ops.cmake
#include "pool.h"
#if defined(QMK_CUDA)
#include "device.h"
#endif

namespace qmk::xla {

namespace {

template <class Call, class = void>
constexpr int num_updated = 0;
template <class Call>
constexpr int num_updated<Call, std::void_t<decltype(Call::num_updated)>> = Call::num_updated;

Error* error_of(const CallFrame& frame, ErrorCode code, const std::string& message) {
    CreateError call{head_of<CreateError>(), message.c_str(), code};
    return frame.api->create_error(&call);
}

// Tells XLA what it asks when a handler is registered; false if this is a call.
bool answers_metadata(const CallFrame& frame, bool can_be_captured) {
    const Extension* extension = frame.head.extensions;
    if (extension == nullptr || extension->type != Extension::of_metadata) return false;
    Metadata& metadata = *reinterpret_cast<const MetadataExtension*>(extension)->metadata;
    metadata.version = {head_of<Version>(), major_version, minor_version};
    metadata.traits = can_be_captured ? Metadata::can_be_captured : 0;
    return true;
}

template <class Run>
Error* answer(const CallFrame& frame, bool can_be_captured, Run&& run) {
    if (answers_metadata(frame, can_be_captured)) return nullptr;
    try {
        if (frame.head.struct_size < sizeof(CallFrame) || frame.api->head.struct_size < sizeof(Api))
            throw std::runtime_error("qmkernels: this version of XLA is too old; install jax 0.6.2 or newer.");
        if (frame.stage == CallFrame::stage_of_execution) run();
        return nullptr;
    } catch (const std::bad_alloc&) {
        return error_of(frame, ErrorCode::resource_exhausted, "qmkernels: out of memory.");
    } catch (const std::invalid_argument& error) {
        return error_of(frame, ErrorCode::invalid_argument, error.what());
    } catch (const std::exception& error) {
        return error_of(frame, ErrorCode::internal, error.what());
    }
}

template <class Kernel>
const Fields& fields_of() {
    static const Fields fields(Kernel::name, typename Kernel::template Arguments<float>{});
    return fields;
}

// Fills a call and returns how many values it reads and writes.
template <class Kernel, class Call>
int64_t read(const CallFrame& frame, Call& call) {
    const Fields& fields = fields_of<Kernel>();
    const std::vector<int64_t> counts = fields.read(frame, Slots(call), num_updated<Call>);
    fields.check(counts, call.sizes());
    return std::accumulate(counts.begin(), counts.end(), int64_t(0));
}

template <class Kernel, class T>
void run_on_cpu(const CallFrame& frame) {
    typename Kernel::template Arguments<T> call{};
    const bool is_small = read<Kernel>(frame, call) <= most_small_values;
    const Isa isa = is_small ? isa_of_small_calls() : isa_in_use();
    CallMemory memory;
    if constexpr (needs_scratch<decltype(call)>)
        call.scratch = memory.take(Kernel::template scratch_on_cpu<T>(call, isa));
    Pool pool(frame);
    const UseExecutor use(&pool);
    Kernel::template run_on_cpu<T>(call, is_small ? 1 : pool.num_threads(), isa);
}

template <class Kernel>
Error* on_cpu(CallFrame* frame) {
    return answer(*frame, false, [&] {
        const bool is_double = fields_of<Kernel>().is_double(*frame);
        is_double ? run_on_cpu<Kernel, double>(*frame) : run_on_cpu<Kernel, float>(*frame);
    });
}

#if defined(QMK_CUDA)

template <class Kernel, class T>
void run_on_gpu(const CallFrame& frame) {
    typename Kernel::template Arguments<T> call{};
    read<Kernel>(frame, call);
    DeviceMemory memory(frame);
    if constexpr (needs_scratch<decltype(call)>) call.scratch = memory.take(Kernel::template scratch_on_gpu<T>(call));
    Kernel::template run_on_gpu<T>(call, {current_device(), stream_of(frame)});
}

// A kernel with scratch memory is not captured: XLA may give the memory to others before the graph runs again.
template <class Kernel>
Error* on_gpu(CallFrame* frame) {
    constexpr bool can_be_captured = !needs_scratch<typename Kernel::template Arguments<float>>;
    return answer(*frame, can_be_captured, [&] {
        const bool is_double = fields_of<Kernel>().is_double(*frame);
        is_double ? run_on_gpu<Kernel, double>(*frame) : run_on_gpu<Kernel, float>(*frame);
    });
}

#endif

template <class... Kernel>
std::vector<Target> targets_of(Kernels<Kernel...>) {
    return {
        {Kernel::name, "cpu", on_cpu<Kernel>}...,
#if defined(QMK_CUDA)
        {Kernel::name, "CUDA", on_gpu<Kernel>}...,
#endif
    };
}

}  // namespace

const std::vector<Target>& targets() {
    static const std::vector<Target> all = targets_of(all_kernels);
    return all;
}

}  // namespace qmk::xla
