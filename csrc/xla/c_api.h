// The part of XLA's interface to foreign functions ("typed FFI") that the handlers use, at version 0.1.
//
// Why not XLA's own header: it comes with jaxlib, and neither building nor importing the core may need JAX; and a
// handler compiled with a newer header than that of the XLA that runs it is refused. XLA accepts handlers of every
// version from 0.1 to its own, and keeps this interface binary compatible by rules that this header relies on: every
// struct begins with its size, fields are only added, at its end, and an enumeration's values stay. Compared with the
// c_api.h of jaxlib 0.6.2 (0.1), 0.10.2 (0.3) and 0.12.0 (0.5). The names are ours, so that both headers may be
// included; XLA's are in the comments.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qmk::xla {

constexpr int major_version = 0, minor_version = 1;

struct Error;    // XLA_FFI_Error; who receives one destroys it
struct Context;  // XLA_FFI_ExecutionContext

enum class ErrorCode : int { invalid_argument = 3, resource_exhausted = 8, unimplemented = 12, internal = 13 };

// XLA_FFI_Extension_Base
struct Extension {
    static constexpr int of_metadata = 1;
    size_t struct_size;
    int type;
    Extension* next;
};

// How every struct begins.
struct Head {
    size_t struct_size;
    Extension* extensions;
};

// XLA_FFI_Api_Version
struct Version {
    Head head;
    int major, minor;
};

// XLA_FFI_Metadata: what XLA asks a handler when it is registered.
struct Metadata {
    static constexpr uint32_t can_be_captured = 1;  // in a command buffer, such as a CUDA graph
    size_t struct_size;
    Version version;
    uint32_t traits;
};

struct MetadataExtension {
    Extension base;
    Metadata* metadata;
};

// XLA_FFI_DataType
enum class DataType : int { pred = 1, s32 = 4, s64 = 5, u8 = 6, f16 = 10, f32 = 11, f64 = 12, bf16 = 16 };

// XLA_FFI_Buffer: dense, the last dimension fastest.
struct Buffer {
    Head head;
    DataType type;
    void* data;
    int64_t rank;
    int64_t* dims;
};

// XLA_FFI_ByteSpan
struct Text {
    const char* begin;
    size_t size;
};

// XLA_FFI_Scalar
struct Scalar {
    DataType type;
    void* value;
};

// XLA_FFI_Array
struct Array {
    DataType type;
    size_t size;
    void* data;
};

// XLA_FFI_AttrType: what an attribute's address points to, an Array, a dictionary, a Scalar or a Text.
enum class AttributeType : int { array = 1, dictionary = 2, scalar = 3, text = 4 };

// XLA_FFI_Args and XLA_FFI_Rets. The only type of both is 1, a Buffer.
struct Buffers {
    static constexpr int type_of_buffer = 1;
    Head head;
    int64_t size;
    int* types;
    void** buffers;
};

// XLA_FFI_Attrs
struct Attributes {
    Head head;
    int64_t size;
    AttributeType* types;
    Text** names;
    void** values;
};

// XLA_FFI_Error_Create_Args
struct CreateError {
    Head head;
    const char* message;
    ErrorCode code;
};

// XLA_FFI_Error_Destroy_Args
struct DestroyError {
    Head head;
    Error* error;
};

// XLA_FFI_Stream_Get_Args
struct GetStream {
    Head head;
    Context* context;
    void* stream;  // out
};

// XLA_FFI_DeviceMemory_Allocate_Args
struct AllocateMemory {
    Head head;
    Context* context;
    size_t size, alignment;
    void* data;  // out
};

// XLA_FFI_DeviceMemory_Free_Args
struct FreeMemory {
    Head head;
    Context* context;
    size_t size;
    void* data;
};

// XLA_FFI_ThreadPool_Schedule_Args
struct ScheduleTask {
    Head head;
    Context* context;
    void (*task)(void* data);
    void* data;
};

// XLA_FFI_ThreadPool_NumThreads_Args
struct CountThreads {
    Head head;
    Context* context;
    int64_t* num_threads;  // where to write it
};

// XLA_FFI_Api, up to the last function that is used.
struct Api {
    Head head;
    Version version;
    const void* internal;
    Error* (*create_error)(CreateError*);
    void* get_message;
    void (*destroy_error)(DestroyError*);
    void* register_handler;
    Error* (*get_stream)(GetStream*);
    void *register_type, *get_context, *set_state, *get_state;
    Error* (*allocate_memory)(AllocateMemory*);
    Error* (*free_memory)(FreeMemory*);
    Error* (*schedule_task)(ScheduleTask*);
    Error* (*count_threads)(CountThreads*);
};

// XLA_FFI_CallFrame, without what follows the attributes.
struct CallFrame {
    static constexpr int stage_of_execution = 3;
    Head head;
    const Api* api;
    Context* context;
    int stage;
    Buffers arguments, results;
    Attributes attributes;
};

using Handler = Error*(CallFrame*);

template <class Struct>
Head head_of() {
    return {sizeof(Struct), nullptr};
}

}  // namespace qmk::xla
