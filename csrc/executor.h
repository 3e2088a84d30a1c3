// Who runs the tasks of the kernels' loops (cpu/parallel.h): OpenMP's threads, which are torch's, unless the thread
// that calls a kernel has chosen an executor.
#pragma once

#include <cstdint>

namespace qmk {

class Executor {
  public:
    // Calls task(context, i) once for every i below num_tasks, on at most this many threads; returns after the last.
    virtual void run(int64_t num_tasks, int threads, void (*task)(void* context, int64_t i), void* context) = 0;

  protected:
    ~Executor() = default;
};

// The calling thread's, or null.
Executor* executor_in_use();

// Chooses an executor for the calling thread, for the lifetime of this object.
class UseExecutor {
  public:
    explicit UseExecutor(Executor* executor);
    ~UseExecutor();
    UseExecutor(const UseExecutor&) = delete;
    UseExecutor& operator=(const UseExecutor&) = delete;

  private:
    Executor* before_;
};

}  // namespace qmk
