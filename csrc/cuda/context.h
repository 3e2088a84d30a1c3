// Where a launch goes. Kernels run in the order of the stream; a launcher neither waits for them nor allocates.
#pragma once

namespace qmk::cuda {

struct Context {
    int device;
    void* stream;
};

}  // namespace qmk::cuda
