// The call of a kernel, read from XLA's call frame: addresses from buffers, arguments and results in the order of the
// fields, everything else from attributes of the fields' names. A buffer without elements is a null address.
#pragma once

#include <string>
#include <vector>

#include "../slots.h"
#include "c_api.h"

namespace qmk::xla {

// A kernel's fields by name, made once.
class Fields {
  public:
    template <class Call>
    Fields(const char* kernel, Call call) : kernel_(kernel) {
        for_each_field(call, [&](const char* name, const Slot& slot, const char*) { add(name, slot); });
    }

    // Whether the call is in float64; otherwise it is in float32.
    bool is_double(const CallFrame& frame) const;
    // Fills the call's fields and returns how many elements each buffer has. The last `num_updated` results are
    // arguments too, after all others. Throws std::invalid_argument if the frame is not one of this kernel.
    std::vector<int64_t> read(const CallFrame& frame, const Slots& slots, int num_updated) const;
    // Throws std::invalid_argument unless the buffers have the kernel's sizes.
    void check(const std::vector<int64_t>& counts, const Sizes& sizes) const;

  private:
    struct Field {
        std::string name;
        bool is_address, is_item, is_const;
    };

    void add(const char* name, const Slot& slot);
    void read_attribute(const CallFrame& frame, const Field& field, const Slot& slot) const;
    [[noreturn]] void refuse(const std::string& why) const;

    std::string kernel_;
    std::vector<Field> fields_;
    int64_t num_arguments_ = 0, num_results_ = 0;
};

}  // namespace qmk::xla
