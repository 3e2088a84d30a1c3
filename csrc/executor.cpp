#include "executor.h"

namespace qmk {

namespace {

thread_local Executor* in_use = nullptr;

}  // namespace

Executor* executor_in_use() {
    return in_use;
}

UseExecutor::UseExecutor(Executor* executor) : before_(in_use) {
    in_use = executor;
}

UseExecutor::~UseExecutor() {
    in_use = before_;
}

}  // namespace qmk
