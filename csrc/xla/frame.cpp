#include "frame.h"

#include <cstring>
#include <stdexcept>

namespace qmk::xla {

namespace {

std::string word(const char* text) {
    return std::string(text, std::strcspn(text, ", "));
}

DataType type_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::float32:
            return DataType::f32;
        case Dtype::float64:
            return DataType::f64;
        case Dtype::uint8:
            return DataType::u8;
        case Dtype::int32:
            return DataType::s32;
        default:
            return DataType::s64;
    }
}

const Buffer* buffer_of(const Buffers& buffers, int64_t i) {
    return buffers.types[i] == Buffers::type_of_buffer ? static_cast<const Buffer*>(buffers.buffers[i]) : nullptr;
}

int64_t count_of(const Buffer& buffer) {
    int64_t count = 1;
    for (int64_t d = 0; d < buffer.rank; ++d) count *= buffer.dims[d];
    return count;
}

template <class Number>
bool read_scalar(const Scalar& scalar, DataType type, Number& number) {
    if (scalar.type != type) return false;
    std::memcpy(&number, scalar.value, sizeof(Number));
    return true;
}

// The place of a text among names separated by commas; -1 if it is not there.
int choice(const Text& text, const char* names) {
    for (int i = 0; *names; ++i) {
        const size_t size = std::strcspn(names, ", ");
        if (size == text.size && std::memcmp(names, text.begin, size) == 0) return i;
        names += size;
        names += std::strspn(names, ", ");
    }
    return -1;
}

}  // namespace

void Fields::add(const char* name, const Slot& slot) {
    const bool is_address = slot.kind == Kind::address;
    fields_.push_back({word(name), is_address, slot.is_item, slot.is_const});
    if (is_address) ++(slot.is_const ? num_arguments_ : num_results_);
}

void Fields::refuse(const std::string& why) const {
    throw std::invalid_argument("qmkernels, " + kernel_ + ": " + why + ".");
}

bool Fields::is_double(const CallFrame& frame) const {
    int64_t argument = 0, result = 0;
    for (const Field& field : fields_) {
        if (!field.is_address) continue;
        const Buffers& buffers = field.is_const ? frame.arguments : frame.results;
        const int64_t place = (field.is_const ? argument : result)++;
        if (!field.is_item || place >= buffers.size) continue;
        const Buffer* buffer = buffer_of(buffers, place);
        return buffer && buffer->type == DataType::f64;
    }
    return false;
}

std::vector<int64_t> Fields::read(const CallFrame& frame, const Slots& slots, int num_updated) const {
    if (frame.arguments.size != num_arguments_ + num_updated || frame.results.size != num_results_)
        refuse("there must be " + std::to_string(num_arguments_ + num_updated) + " arguments and " +
               std::to_string(num_results_) + " results, got " + std::to_string(frame.arguments.size) + " and " +
               std::to_string(frame.results.size));
    std::vector<int64_t> counts;
    int64_t argument = 0, result = 0;
    for (int i = 0; i < slots.count; ++i) {
        const Slot& slot = slots.slots[i];
        const Field& field = fields_[i];
        if (!field.is_address) {
            read_attribute(frame, field, slot);
            continue;
        }
        const Buffer* buffer =
            field.is_const ? buffer_of(frame.arguments, argument++) : buffer_of(frame.results, result++);
        if (buffer == nullptr || buffer->type != type_of(slot.dtype)) refuse(field.name + " has another dtype");
        counts.push_back(count_of(*buffer));
        *static_cast<void**>(slot.field) = counts.back() ? buffer->data : nullptr;
    }
    for (int64_t i = 0; i < num_updated; ++i) {
        const Buffer* before = buffer_of(frame.arguments, num_arguments_ + i);
        if (before == nullptr || before->data != buffer_of(frame.results, num_results_ - num_updated + i)->data)
            refuse("the last arguments must be the last results");
    }
    return counts;
}

void Fields::read_attribute(const CallFrame& frame, const Field& field, const Slot& slot) const {
    const Attributes& attributes = frame.attributes;
    int64_t i = 0;
    while (i < attributes.size && std::string(attributes.names[i]->begin, attributes.names[i]->size) != field.name) ++i;
    if (i == attributes.size) refuse("the attribute " + field.name + " is missing");
    const void* value = attributes.values[i];
    bool is_read = false;
    if (attributes.types[i] == AttributeType::scalar) {
        const Scalar& scalar = *static_cast<const Scalar*>(value);
        if (slot.kind == Kind::whole && slot.size == sizeof(int64_t))
            is_read = read_scalar(scalar, DataType::s64, *static_cast<int64_t*>(slot.field)) &&
                      *static_cast<int64_t*>(slot.field) >= 0;
        else if (slot.kind == Kind::number)
            is_read = read_scalar(scalar, DataType::f64, *static_cast<double*>(slot.field));
        else if (slot.kind == Kind::boolean)
            is_read = read_scalar(scalar, DataType::pred, *static_cast<bool*>(slot.field));
    } else if (attributes.types[i] == AttributeType::text && slot.kind == Kind::choice) {
        const int place = choice(*static_cast<const Text*>(value), slot.names);
        *static_cast<int*>(slot.field) = place;
        is_read = place >= 0;
    } else if (attributes.types[i] == AttributeType::array && slot.kind == Kind::wholes) {
        const Array& array = *static_cast<const Array*>(value);
        is_read = array.type == DataType::s64 && array.size <= size_t(slot.size);
        if (is_read) {
            auto* numbers = static_cast<int64_t*>(slot.field);
            *numbers = int64_t(array.size);
            std::memcpy(numbers + 1, array.data, array.size * sizeof(int64_t));
        }
    }
    if (!is_read) refuse("the attribute " + field.name + " has another type or value");
}

void Fields::check(const std::vector<int64_t>& counts, const Sizes& sizes) const {
    if (sizes.empty()) refuse("its whole numbers do not fit each other");
    size_t place = 0;
    for (const Field& field : fields_) {
        if (!field.is_address) continue;
        const Items& items = sizes.at(place);
        const int64_t count = counts[place++];
        if (count == items.count || (items.may_be_absent && count == 0)) continue;
        refuse(field.name + " must have " + std::to_string(items.count) + " elements, got " + std::to_string(count));
    }
}

}  // namespace qmk::xla
