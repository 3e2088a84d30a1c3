// XLA's handlers, called as XLA calls them, with a stand-in for its runtime: what they tell at registration, results
// equal to a kernel's own, pools that are busy, run tasks late or refuse them, and frames that do not fit.
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../ops/mrn.h"
#include "../xla/handlers.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::xla;

namespace qmk::xla {

struct Error {
    ErrorCode code;
    std::string message;
};

// A pool of threads, or without any one that runs its tasks when it is told to.
struct Context {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> tasks;
    std::vector<std::thread> threads;
    bool refuses = false, ends = false;
    int64_t num_threads = 4;

    explicit Context(int running) {
        for (int i = 0; i < running; ++i) threads.emplace_back([this] { work(); });
    }
    ~Context() {
        {
            const std::lock_guard<std::mutex> lock(mutex);
            ends = true;
        }
        changed.notify_all();
        for (auto& thread : threads) thread.join();
        for (auto& task : tasks) task();
    }
    void work() {
        for (;;) {
            std::unique_lock<std::mutex> lock(mutex);
            changed.wait(lock, [&] { return ends || !tasks.empty(); });
            if (tasks.empty()) return;
            const auto task = tasks.front();
            tasks.pop_front();
            lock.unlock();
            task();
        }
    }
};

}  // namespace qmk::xla

static Api api() {
    Api api{};
    api.head.struct_size = sizeof(Api);
    api.create_error = [](CreateError* call) { return new Error{call->code, call->message}; };
    api.destroy_error = [](DestroyError* call) { delete call->error; };
    api.count_threads = [](CountThreads* call) -> Error* {
        *call->num_threads = call->context->num_threads;
        return nullptr;
    };
    api.schedule_task = [](ScheduleTask* call) -> Error* {
        Context& pool = *call->context;
        if (pool.refuses) return new Error{ErrorCode::internal, "no"};
        {
            const std::lock_guard<std::mutex> lock(pool.mutex);
            pool.tasks.push_back([task = call->task, data = call->data] { task(data); });
        }
        pool.changed.notify_one();
        return nullptr;
    };
    return api;
}

static Handler* handler_of(const std::string& kernel) {
    for (const Target& target : targets())
        if (target.name == kernel && target.platform == std::string("cpu")) return target.handler;
    std::printf("FAILED: there is no handler of %s\n", kernel.c_str());
    std::exit(1);
}

// A call frame with memory of its own.
struct Call {
    std::deque<Buffer> storage;
    std::deque<std::vector<int64_t>> dims;
    std::vector<void*> arguments, results, values;
    std::vector<int> argument_types, result_types;
    std::deque<std::string> texts;
    std::deque<Text> spans, names;
    std::deque<Scalar> scalars;
    std::deque<int64_t> wholes;
    std::deque<double> numbers;
    std::vector<Text*> name_pointers;
    std::vector<AttributeType> types;

    void add(std::vector<void*>& to, std::vector<int>& types, DataType type, const void* data,
             std::vector<int64_t> sizes) {
        dims.push_back(std::move(sizes));
        storage.push_back(
            {head_of<Buffer>(), type, const_cast<void*>(data), int64_t(dims.back().size()), dims.back().data()});
        to.push_back(&storage.back());
        types.push_back(Buffers::type_of_buffer);
    }
    void argument(DataType type, const void* data, std::vector<int64_t> sizes) {
        add(arguments, argument_types, type, data, std::move(sizes));
    }
    void result(DataType type, void* data, std::vector<int64_t> sizes) {
        add(results, result_types, type, data, std::move(sizes));
    }
    void attribute(const char* name, AttributeType type, void* value) {
        names.push_back({name, std::strlen(name)});
        name_pointers.push_back(&names.back());
        types.push_back(type);
        values.push_back(value);
    }
    void whole(const char* name, int64_t value) {
        wholes.push_back(value);
        scalars.push_back({DataType::s64, &wholes.back()});
        attribute(name, AttributeType::scalar, &scalars.back());
    }
    void number(const char* name, double value) {
        numbers.push_back(value);
        scalars.push_back({DataType::f64, &numbers.back()});
        attribute(name, AttributeType::scalar, &scalars.back());
    }
    void choice(const char* name, const char* value) {
        texts.push_back(value);
        spans.push_back({texts.back().data(), texts.back().size()});
        attribute(name, AttributeType::text, &spans.back());
    }
    // Runs a handler and returns its error's message, empty if it succeeded.
    std::string run(Handler* handler, Context& context) {
        const Api runtime = api();
        CallFrame frame{head_of<CallFrame>(), &runtime, &context, CallFrame::stage_of_execution, {}, {}, {}};
        frame.arguments = {head_of<Buffers>(), int64_t(arguments.size()), argument_types.data(), arguments.data()};
        frame.results = {head_of<Buffers>(), int64_t(results.size()), result_types.data(), results.data()};
        frame.attributes = {head_of<Attributes>(), int64_t(values.size()), types.data(), name_pointers.data(),
                            values.data()};
        Error* error = handler(&frame);
        const std::string message = error ? error->message : "";
        delete error;
        return message;
    }
};

constexpr int64_t num_x = 133, num_y = 67, dim = 48;

static Call pairs(const std::vector<float>& x, const std::vector<float>& y, std::vector<float>& out, int64_t rows) {
    Call call;
    call.argument(DataType::f32, x.data(), {1, num_x, dim});
    call.argument(DataType::f32, y.data(), {num_y, dim});
    call.result(DataType::f32, out.data(), {num_x, num_y});
    call.whole("batch", 1);
    call.whole("num_x", rows);
    call.whole("num_y", num_y);
    call.whole("dim", dim);
    call.whole("num_components", 3);
    call.choice("asymmetric", "first");
    call.choice("squares", "mean");
    call.number("exponent", 1.0);
    call.number("eps", 1e-6);
    call.choice("eps_form", "add");
    call.choice("reduction", "mean");
    call.number("scale", 0.5);
    return call;
}

static void a_handler_is_of_version_0_1() {
    Metadata metadata{};
    MetadataExtension extension{{sizeof(MetadataExtension), Extension::of_metadata, nullptr}, &metadata};
    CallFrame frame{{sizeof(CallFrame), &extension.base}, nullptr, nullptr, 0, {}, {}, {}};
    check(handler_of("iqe_forward")(&frame) == nullptr, "a handler answers what XLA asks when it is registered");
    check(metadata.version.major == 0 && metadata.version.minor == 1, "a handler is of version 0.1");
}

static void results_are_the_kernels_own_on_every_pool() {
    std::mt19937 random{1};
    std::normal_distribution<float> normal;
    std::vector<float> x(num_x * dim), y(num_y * dim), wanted(num_x * num_y);
    for (auto* values : {&x, &y})
        for (auto& value : *values) value = normal(random);
    const MrnSettings settings{3,    MrnAsymmetric::first, MrnSquares::mean,   1.0,
                               1e-6, MrnEps::add,          MrnReduction::mean, 0.5};
    MrnPairwiseForward<float> call{x.data(), y.data(), wanted.data(), nullptr, {1, num_x, num_y, dim}, settings};
    const CallMemory memory(mrn_pairwise_forward_kernel::scratch_on_cpu<float>(call, isa_in_use()));
    call.scratch = memory.get();
    mrn_pairwise_forward_kernel::run_on_cpu<float>(call, 1, isa_in_use());

    struct {
        const char* claim;
        int running;
        bool refuses;
    } pools[] = {{"a pool of three threads", 3, false},
                 {"a pool that runs its tasks after the call", 0, false},
                 {"a pool that refuses tasks", 0, true}};
    for (const auto& pool : pools)
        for (int repeat = 0; repeat < 20; ++repeat) {
            Context context(pool.running);
            context.refuses = pool.refuses;
            std::vector<float> out(num_x * num_y, -1);
            check(pairs(x, y, out, num_x).run(handler_of("mrn_pairwise_forward"), context).empty(), pool.claim);
            check(out == wanted, std::string("the kernel's own numbers from ") + pool.claim);
        }

    std::vector<float> out(num_x * num_y);
    Context context(0);
    const std::string message = pairs(x, y, out, num_x + 1).run(handler_of("mrn_pairwise_forward"), context);
    check(message.find("x must have 6432 elements, got 6384") != std::string::npos, "buffers that are too small");
    Call other = pairs(x, y, out, num_x);
    other.arguments.pop_back();
    check(other.run(handler_of("mrn_pairwise_forward"), context).find("there must be 2 arguments") != std::string::npos,
          "a missing argument is an error");
}

int main() {
    a_handler_is_of_version_0_1();
    results_are_the_kernels_own_on_every_pool();
    return report();
}
