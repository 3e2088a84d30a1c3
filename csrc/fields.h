// Names of a struct's fields and of an enumeration's values, written where these are declared.
#pragma once

#include <tuple>

// Inside a struct: its fields, as references and as text. Python gives them by name.
#define QMK_FIELDS(...)                                      \
    static constexpr const char* field_names = #__VA_ARGS__; \
    auto fields() {                                          \
        return std::tie(__VA_ARGS__);                        \
    }

// Inside a struct of settings, which Python gives as one named tuple of the same fields in the same order.
#define QMK_SETTINGS(...)                     \
    static constexpr bool is_settings = true; \
    QMK_FIELDS(__VA_ARGS__)

// An enumeration whose values have names in Python.
#define QMK_ENUM(Name, ...)                \
    enum class Name : int { __VA_ARGS__ }; \
    constexpr const char* names_of(Name) { \
        return #__VA_ARGS__;               \
    }
