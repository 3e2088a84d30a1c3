// Loops over tasks on torch's OpenMP threads, or on those of the calling thread's executor. No two tasks write the same
// memory, so results do not depend on the number of threads. With one thread no parallel region is opened, so that
// forked processes are safe. A task may throw only std::bad_alloc; because no exception may leave a thread, it is
// thrown again after the last task.
#pragma once

#include <cstdint>
#include <new>

#include "../executor.h"
#include "../math/target.h"

namespace qmk::QMK_TARGET {

// One thread per `grain` items of work, at most `threads`.
QMK_INLINE int threads_for(int64_t work, int64_t grain, int threads) {
    const int64_t useful = work / grain + 1;
    return int(useful < threads ? useful : threads);
}

template <class Task>
QMK_INLINE void parallel_for(int64_t num_tasks, int threads, Task&& task) {
    if (threads <= 1 || num_tasks <= 1) {
        for (int64_t i = 0; i < num_tasks; ++i) task(i);
        return;
    }
    bool out_of_memory = false;
    auto guarded = [&](int64_t i) {
        try {
            task(i);
        } catch (const std::bad_alloc&) {
            __atomic_store_n(&out_of_memory, true, __ATOMIC_RELAXED);
        }
    };
    if (Executor* executor = executor_in_use()) {
        const auto run = [](void* context, int64_t i) { (*static_cast<decltype(guarded)*>(context))(i); };
        executor->run(num_tasks, threads, run, &guarded);
    } else {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int64_t i = 0; i < num_tasks; ++i) guarded(i);
    }
    if (out_of_memory) throw std::bad_alloc();
}

}  // namespace qmk::QMK_TARGET
