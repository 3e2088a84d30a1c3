#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

namespace qmk::xla {

namespace {

// A loop, shared by the threads that run it. Those that XLA starts after the last task has been taken find nothing to
// do and touch only this.
class Loop {
  public:
    Loop(int64_t num_tasks, void (*task)(void*, int64_t), void* context)
        : num_tasks_(num_tasks), task_(task), context_(context) {}

    void work() {
        int64_t done = 0;
        for (int64_t i; (i = next_.fetch_add(1)) < num_tasks_; ++done) task_(context_, i);
        if (done == 0 || ended_.fetch_add(done) + done < num_tasks_) return;
        const std::lock_guard<std::mutex> lock(mutex_);
        all_ended_.notify_one();
    }

    void wait() {
        std::unique_lock<std::mutex> lock(mutex_);
        all_ended_.wait(lock, [&] { return ended_ == num_tasks_; });
    }

  private:
    const int64_t num_tasks_;
    void (*const task_)(void*, int64_t);
    void* const context_;
    std::atomic<int64_t> next_{0}, ended_{0};
    std::mutex mutex_;
    std::condition_variable all_ended_;
};

using SharedLoop = std::shared_ptr<Loop>;

void help(void* data) {
    const std::unique_ptr<SharedLoop> loop(static_cast<SharedLoop*>(data));
    (*loop)->work();
}

// Returns whether a call of XLA succeeded.
bool succeeded(const Api& api, Error* error) {
    if (error == nullptr) return true;
    DestroyError destroy{head_of<DestroyError>(), error};
    api.destroy_error(&destroy);
    return false;
}

}  // namespace

int Pool::num_threads() const {
    int64_t count = 1;
    CountThreads call{head_of<CountThreads>(), context_, &count};
    return succeeded(api_, api_.count_threads(&call)) && count > 0 ? int(count) : 1;
}

void Pool::run(int64_t num_tasks, int threads, void (*task)(void* context, int64_t i), void* context) {
    const auto loop = std::make_shared<Loop>(num_tasks, task, context);
    const int64_t useful = num_tasks < threads ? num_tasks : threads;
    for (int64_t helper = 1; helper < useful; ++helper) {
        auto shared = std::make_unique<SharedLoop>(loop);
        ScheduleTask call{head_of<ScheduleTask>(), context_, help, shared.get()};
        if (!succeeded(api_, api_.schedule_task(&call))) break;
        shared.release();
    }
    loop->work();
    loop->wait();
}

}  // namespace qmk::xla
