// Shared by the native tests, which run once per instruction set and report every claim that fails.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

inline int failures = 0;

inline void check(bool holds, const std::string& claim) {
    if (holds) return;
    std::printf("FAILED: %s\n", claim.c_str());
    ++failures;
}

// Memory for one call, of exactly this many bytes if that is a multiple of 64.
class CallMemory {
  public:
    explicit CallMemory(int64_t bytes) : memory_(std::aligned_alloc(64, (bytes + 63) / 64 * 64)) {}
    ~CallMemory() { std::free(memory_); }
    CallMemory(const CallMemory&) = delete;
    CallMemory& operator=(const CallMemory&) = delete;
    void* get() const { return memory_; }

  private:
    void* memory_;
};

// Runs a kernel that needs scratch memory; last comes the call.
#define RUN_WITH_SCRATCH(kernel, threads, ...)            \
    do {                                                  \
        auto call = __VA_ARGS__;                          \
        const CallMemory scratch(kernel##_scratch(call)); \
        call.scratch = scratch.get();                     \
        kernel(call, threads);                            \
    } while (false)

// Exit status by which ctest knows a skipped test.
constexpr int skipped = 77;

// Whether this processor has the instruction set that the test was compiled for.
inline bool runs_here(const std::string& isa) {
#if defined(__x86_64__)
    if ((isa == "avx2" && !__builtin_cpu_supports("avx2")) ||
        (isa == "avx512" && !__builtin_cpu_supports("avx512bw"))) {
        std::printf("skipped: this processor has no %s\n", isa.c_str());
        return false;
    }
#endif
    return true;
}

inline int report() {
    std::printf("%s\n", failures == 0 ? "all native tests passed" : "native tests failed");
    return failures == 0 ? 0 : 1;
}
