// Enough of CUDA to run this project's kernels on a CPU, for tests without a GPU: put this folder before the toolkit's
// in the include path and compile a .cu file as C++ with -DQMK_TARGET=cuda.
//
// Blocks run one after another; every thread of a block is a fiber that runs until it must wait for others. The next
// one to run is drawn at random, so that a missing barrier shows. A barrier that not all threads reach ends the program
// with a message. Dynamic shared memory starts as NaN in every block, and under AddressSanitizer ends where the launch
// says (.ci/sanitize_cuda). Not thread-safe, and slow.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) (void)0
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) (void)0
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// All fibers are on one system thread, so its thread-local variables are shared by them, and static.
#define __shared__ thread_local

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3() = default;
    explicit dim3(unsigned count) : x(count) {}
};
struct alignas(16) ulonglong2 {
    unsigned long long x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaDevAttrMaxSharedMemoryPerBlockOptin };

namespace cuda_on_cpu {

constexpr size_t stack_bytes = 256 * 1024;
constexpr int most_shared_bytes =
    99 * 1024;  // of compute capability 8.6, the smallest of those the kernels are built for

struct Barrier {
    int arrived = 0;
    unsigned generation = 0;
};

struct Copy {
    void* to;
    const void* from;
    size_t bytes;
};

struct Fiber {
    ucontext_t context;  // to start it; later switches are jumps, which save two system calls each
    jmp_buf resume;
    bool started = false;
    dim3 index;
    Barrier* waits_for = nullptr;
    unsigned waits_since = 0;
    bool done = false;
    std::vector<Copy> copies;  // begun and not waited for (cuda_pipeline_primitives.h)
};

struct Block {
    dim3 index, size, grid;
    std::vector<Fiber> fibers;
    std::vector<Barrier> warps;
    Barrier all;
    std::vector<uint64_t> exchanged;  // the values that each thread shows to its warp
    jmp_buf scheduler;
    std::function<void()> body;
};

inline Block* block = nullptr;
inline Fiber* fiber = nullptr;

// Stacks stay from launch to launch: to get them anew would take longer than most kernels.
inline char* stack_of(unsigned thread) {
    static std::vector<std::unique_ptr<char[]>> stacks;
    while (stacks.size() <= thread) stacks.emplace_back(new char[stack_bytes]);
    return stacks[thread].get();
}

inline uint64_t random_state = 1;

inline uint64_t next_random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

inline void leave_fiber() {
    if (_setjmp(fiber->resume) == 0) _longjmp(block->scheduler, 1);
}

inline void enter_fiber() {
    if (_setjmp(block->scheduler) != 0) return;
    if (fiber->started) _longjmp(fiber->resume, 1);
    fiber->started = true;
    setcontext(&fiber->context);
}

inline void wait_for(Barrier& barrier, int count) {
    const unsigned generation = barrier.generation;
    if (++barrier.arrived == count) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    fiber->waits_for = &barrier;
    fiber->waits_since = generation;
    leave_fiber();
}

inline void run_fiber() {
    block->body();
    fiber->done = true;
    leave_fiber();
}

inline void run_block() {
    int left = int(block->fibers.size());
    std::vector<int> able;
    while (left > 0) {
        able.clear();
        for (int i = 0; i < int(block->fibers.size()); ++i) {
            const Fiber& one = block->fibers[i];
            if (!one.done && (!one.waits_for || one.waits_for->generation != one.waits_since)) able.push_back(i);
        }
        if (able.empty()) {
            std::fprintf(stderr, "cuda_on_cpu: %d threads wait at a barrier that the others never reach\n", left);
            std::abort();
        }
        for (size_t i = able.size(); i > 1; --i) std::swap(able[i - 1], able[next_random() % i]);
        for (int i : able) {
            fiber = &block->fibers[i];
            fiber->waits_for = nullptr;
            enter_fiber();
            left -= fiber->done;
        }
    }
}

// The 32 values of a warp, one per thread; between two barriers, so that the next exchange does not overwrite them.
template <class T, class Use>
auto exchange(T value, Use&& use) {
    static_assert(sizeof(T) <= 8);
    const int thread = int(fiber->index.x), first = thread / 32 * 32;
    std::memcpy(&block->exchanged[thread], &value, sizeof(T));
    Barrier& warp = block->warps[thread / 32];
    wait_for(warp, 32);
    const auto result = use([&](int lane) {
        T shown;
        std::memcpy(&shown, &block->exchanged[first + lane], sizeof(T));
        return shown;
    });
    wait_for(warp, 32);
    return result;
}

}  // namespace cuda_on_cpu

#define threadIdx (cuda_on_cpu::fiber->index)
#define blockIdx (cuda_on_cpu::block->index)
#define blockDim (cuda_on_cpu::block->size)
#define gridDim (cuda_on_cpu::block->grid)

inline void __syncthreads() {
    cuda_on_cpu::wait_for(cuda_on_cpu::block->all, int(blockDim.x));
}
inline void __syncwarp() {
    cuda_on_cpu::wait_for(cuda_on_cpu::block->warps[threadIdx.x / 32], 32);
}
template <class T>
void __stwb(T* to, T value) {
    *to = value;
}
inline int __ffs(unsigned bits) {
    return __builtin_ffs(int(bits));
}
inline int __clz(unsigned bits) {
    return bits ? __builtin_clz(bits) : 32;
}

inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return cuda_on_cpu::exchange(value, [&](auto&& of) { return of(lane); });
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    const int own = int(threadIdx.x) % 32;
    return cuda_on_cpu::exchange(value, [&](auto&& of) { return of(own ^ mask); });
}
template <class T>
T __shfl_up_sync(unsigned, T value, int distance) {
    const int own = int(threadIdx.x) % 32;
    return cuda_on_cpu::exchange(value, [&](auto&& of) { return of(own < distance ? own : own - distance); });
}
inline unsigned __ballot_sync(unsigned, bool vote) {
    return cuda_on_cpu::exchange(int(vote), [](auto&& of) {
        unsigned votes = 0;
        for (int lane = 0; lane < 32; ++lane) votes |= unsigned(of(lane)) << lane;
        return votes;
    });
}

inline cudaError_t cudaGetDevice(int* device) {
    return *device = 0, cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) {
    return cudaSuccess;
}
inline cudaError_t cudaGetLastError() {
    return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) {
    return "none";
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, int, int) {
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
    return *value = cuda_on_cpu::most_shared_bytes, cudaSuccess;
}

// Defined at the end of the file under test, in the namespace of its kernels: CUDA_ON_CPU_DYNAMIC_SHARED.
namespace cuda_on_cpu {
inline void* dynamic_shared_memory = nullptr;
}
#define CUDA_ON_CPU_DYNAMIC_SHARED                                                   \
    thread_local int4 dynamic_shared[cuda_on_cpu::most_shared_bytes / sizeof(int4)]; \
    [[maybe_unused]] const bool dynamic_shared_is_known = [] {                       \
        cuda_on_cpu::dynamic_shared_memory = dynamic_shared;                         \
        return true;                                                                 \
    }();

template <class... Parameters, size_t... places>
void cuda_on_cpu_call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<places...>) {
    kernel(*static_cast<Parameters*>(arguments[places])...);
}

template <class... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 size, void** arguments, size_t shared,
                             cudaStream_t) {
    using namespace cuda_on_cpu;
    Block here;
    block = &here;
    here.size = size;
    here.grid = grid;
    here.fibers.resize(size.x);
    here.warps.resize((size.x + 31) / 32);
    here.exchanged.resize(size.x);
    if (dynamic_shared_memory) {
        ASAN_POISON_MEMORY_REGION(dynamic_shared_memory, most_shared_bytes);
        ASAN_UNPOISON_MEMORY_REGION(dynamic_shared_memory, shared);
    }
    here.body = [&] { cuda_on_cpu_call(kernel, arguments, std::index_sequence_for<Parameters...>{}); };
    for (unsigned b = 0; b < grid.x; ++b) {
        here.index.x = b;
        if (shared) std::memset(dynamic_shared_memory, 0xff, shared);
        for (unsigned t = 0; t < size.x; ++t) {
            Fiber& one = here.fibers[t];
            one.index.x = t;
            one.index.y = one.index.z = 0;
            one.done = one.started = false;
            one.waits_for = nullptr;
            one.copies.clear();
            getcontext(&one.context);
            one.context.uc_stack.ss_sp = stack_of(t);
            one.context.uc_stack.ss_size = stack_bytes;
            one.context.uc_link = nullptr;
            makecontext(&one.context, run_fiber, 0);
        }
        run_block();
    }
    block = nullptr;
    return cudaSuccess;
}
