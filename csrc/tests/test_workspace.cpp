// The memory of tasks: its pieces are aligned and do not overlap, and a task that finds none ends the call, not the
// process, from one and from three threads.
#include <cstdint>
#include <cstring>
#include <new>
#include <string>

#include "../cpu/parallel.h"
#include "../cpu/workspace.h"
#include "testing.h"

using namespace qmk::QMK_TARGET;

struct Pieces {
    char* bytes;
    double* numbers;
};

static Pieces take_pieces(Workspace& workspace, int64_t count) {
    char* bytes = workspace.take<char>(count);
    return {bytes, workspace.take<double>(count)};
}

template <int64_t on_stack>
static void pieces_lie_apart_on_their_boundaries(int64_t count) {
    const auto memory = scratch<on_stack>([=](Workspace& workspace) { return take_pieces(workspace, count); });
    const auto [bytes, numbers] = memory.pieces;
    std::memset(bytes, 1, count);
    std::memset(numbers, 2, count * sizeof(double));
    const std::string name = std::to_string(count) + " pieces, " + std::to_string(on_stack) + " bytes on the stack";
    for (int64_t i = 0; i < count; ++i) check(bytes[i] == 1, name);
    for (void* piece : {static_cast<void*>(bytes), static_cast<void*>(numbers)})
        check(reinterpret_cast<std::uintptr_t>(piece) % 64 == 0, name);
}

static void a_task_without_memory_ends_the_call(int threads) {
    int64_t done[8] = {};
    bool refused = false;
    try {
        parallel_for(8, threads, [&](int64_t task) {
            const int64_t bytes = task == 5 ? int64_t(1) << 60 : 100;
            const auto memory = scratch([=](Workspace& workspace) { return workspace.take<char>(bytes); });
            std::memset(memory.pieces, int(task), 100);
            done[task] = 1;
        });
    } catch (const std::bad_alloc&) {
        refused = true;
    }
    check(refused && done[5] == 0 && done[0] == 1, "a task without memory, threads: " + std::to_string(threads));
}

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    for (int64_t count : {0, 1, 7, 8, 63, 64, 65, 1000}) {
        pieces_lie_apart_on_their_boundaries<0>(count);
        pieces_lie_apart_on_their_boundaries<1024>(count);
    }
    for (int threads : {1, 3}) a_task_without_memory_ends_the_call(threads);
    return report();
}
