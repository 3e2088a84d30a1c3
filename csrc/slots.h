// The fields of a kernel's call by name, kind and location, for those who fill it: Python (bindings) and XLA (xla).
#pragma once

#include <cstdint>
#include <tuple>
#include <type_traits>

#include "signature.h"

namespace qmk {

enum class Dtype : int { float32, float64, uint8, int32, int64, bfloat16, float16 };
constexpr int num_dtypes = 7;
enum class Kind : int { address, whole, number, boolean, choice, wholes };

// One field of a call: its kind and its location.
struct Slot {
    Kind kind;
    Dtype dtype;        // of an address
    bool is_item;       // an address of T
    bool is_const;      // an address that is only read
    int size;           // of a whole number: its bytes; of wholes: their largest count
    const char* names;  // of a choice
    void* field;
    Storage* storage = nullptr;  // of an address that may be of numbers in half precision
};

template <class T>
constexpr Dtype dtype_of() {
    using Item = std::remove_const_t<T>;
    if (std::is_same_v<Item, float>) return Dtype::float32;
    if (std::is_same_v<Item, double>) return Dtype::float64;
    if (std::is_same_v<Item, uint8_t>) return Dtype::uint8;
    if (std::is_same_v<Item, int32_t>) return Dtype::int32;
    static_assert(std::is_floating_point_v<Item> || std::is_integral_v<Item>);
    return Dtype::int64;
}

template <class Item>
Slot slot_of(Item*& field) {
    return {Kind::address, dtype_of<Item>(), std::is_floating_point_v<Item>, std::is_const_v<Item>, 0, nullptr, &field};
}
template <class Item>
Slot slot_of(Stored<Item>& field) {
    Slot slot = slot_of(field.address);
    slot.storage = &field.storage;
    return slot;
}
inline Slot slot_of(int64_t& field) {
    return {Kind::whole, {}, false, false, sizeof(int64_t), nullptr, &field};
}
inline Slot slot_of(int& field) {
    return {Kind::whole, {}, false, false, sizeof(int), nullptr, &field};
}
inline Slot slot_of(double& field) {
    return {Kind::number, {}, false, false, 0, nullptr, &field};
}
inline Slot slot_of(bool& field) {
    return {Kind::boolean, {}, false, false, 0, nullptr, &field};
}
template <int most>
Slot slot_of(Integers<most>& field) {
    return {Kind::wholes, {}, false, false, most, nullptr, &field};
}
template <class Choice, class = std::enable_if_t<std::is_enum_v<Choice>>>
Slot slot_of(Choice& field) {
    return {Kind::choice, {}, false, false, 0, names_of(Choice{}), &field};
}

template <class Field, class = void>
constexpr bool is_struct_of_fields = false;
template <class Field>
constexpr bool is_struct_of_fields<Field, std::void_t<decltype(Field::field_names)>> = true;

template <class Field, class = void>
constexpr bool is_settings = false;
template <class Field>
constexpr bool is_settings<Field, std::void_t<decltype(Field::is_settings)>> = true;

// Calls add(name, slot, tuple) for every field of a call; `tuple` is the name of the settings it belongs to, or null.
template <class Call, class Add>
void for_each_field(Call& call, Add&& add, const char* tuple = nullptr) {
    const char* names = Call::field_names;
    const auto visit = [&](auto& field) {
        using Field = std::decay_t<decltype(field)>;
        if constexpr (is_struct_of_fields<Field>)
            for_each_field(field, add, is_settings<Field> ? names : tuple);
        else
            add(names, slot_of(field), tuple);
        while (*names && *names != ',') ++names;
        while (*names == ',' || *names == ' ') ++names;
    };
    std::apply([&](auto&... field) { (visit(field), ...); }, call.fields());
}

constexpr int most_fields = 40;

struct Slots {
    Slot slots[most_fields];
    int count = 0;

    template <class Call>
    explicit Slots(Call& call) {
        for_each_field(call, [&](const char*, const Slot& slot, const char*) { slots[count++] = slot; });
    }
};

}  // namespace qmk
