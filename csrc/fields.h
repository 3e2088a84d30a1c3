// The names of a struct's fields and of an enumeration's values, written where these are declared.
#pragma once

#include <tuple>

// Inside a struct: its fields, as references and as text. Order is of no meaning.
#define QMK_FIELDS(...)                                      \
    static constexpr const char* field_names = #__VA_ARGS__; \
    auto fields() {                                          \
        return std::tie(__VA_ARGS__);                        \
    }

// An enumeration whose values have names in Python.
#define QMK_ENUM(Name, ...)                \
    enum class Name : int { __VA_ARGS__ }; \
    constexpr const char* names_of(Name) { \
        return #__VA_ARGS__;               \
    }
