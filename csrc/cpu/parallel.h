// Loops over tasks on torch's OpenMP threads. No two tasks write the same memory, so results do not depend on the
// number of threads. With one thread no parallel region is opened, so that forked processes are safe. A task may throw
// only std::bad_alloc; because no exception may leave a thread, it is thrown again after the last task.
#pragma once

#include <cstdint>
#include <new>

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
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < num_tasks; ++i) {
        try {
            task(i);
        } catch (const std::bad_alloc&) {
#pragma omp atomic write
            out_of_memory = true;
        }
    }
    if (out_of_memory) throw std::bad_alloc();
}

}  // namespace qmk::QMK_TARGET
