// Loops on the threads that XLA runs its own loops on, so that a process has one pool and not two.
#pragma once

#include "../executor.h"
#include "c_api.h"

namespace qmk::xla {

// The pool of one call. The calling thread works too, and waits only for tasks that have begun: a call from one of the
// pool's own threads ends even if all others are busy or wait themselves.
class Pool final : public Executor {
  public:
    explicit Pool(const CallFrame& frame) : api_(*frame.api), context_(frame.context) {}

    int num_threads() const;  // 1 if XLA has no pool for this call
    void run(int64_t num_tasks, int threads, void (*task)(void* context, int64_t i), void* context) override;

  private:
    const Api& api_;
    Context* context_;
};

}  // namespace qmk::xla
