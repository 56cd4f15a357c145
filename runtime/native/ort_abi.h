// The part of ONNX Runtime's C interface that kernels need. Its table of functions only ever grows at its end, so an
// entry's number is the same in every release (onnxruntime_c_api.h, since 1.17 for the last of these).
#pragma once
#include <cstddef>
#include <cstdint>

namespace ort {

struct Status;
struct SessionOptions;
struct Domain;
struct Value;
struct Shape;
struct KernelInfo;
struct KernelContext;

enum ElementType : int { kAny = 0, kFloat = 1, kUint8 = 2, kInt8 = 3, kFloat16 = 10 };
enum Characteristic : int { kRequired = 0 };
constexpr int kInvalidArgument = 2;
constexpr uint32_t kApiVersion = 17;       // of the table
constexpr uint32_t kCustomOpVersion = 16;  // of the structure below, up to its last field that is set

struct Api {
  const void* functions[275];

  template <typename Function>
  Function at(size_t number) const {
    return reinterpret_cast<Function>(const_cast<void*>(functions[number]));
  }
  Status* status(const char* message) const { return at<Status* (*)(int, const char*)>(0)(kInvalidArgument, message); }
  Status* create_domain(const char* name, Domain** out) const {
    return at<Status* (*)(const char*, Domain**)>(26)(name, out);
  }
  Status* add_to_domain(Domain* domain, const void* op) const {
    return at<Status* (*)(Domain*, const void*)>(27)(domain, op);
  }
  Status* add_domain(SessionOptions* options, Domain* domain) const {
    return at<Status* (*)(SessionOptions*, Domain*)>(28)(options, domain);
  }
  Status* data(Value* value, void** out) const { return at<Status* (*)(Value*, void**)>(51)(value, out); }
  Status* type(const Shape* shape, ElementType* out) const {
    return at<Status* (*)(const Shape*, ElementType*)>(60)(shape, out);
  }
  Status* rank(const Shape* shape, size_t* out) const { return at<Status* (*)(const Shape*, size_t*)>(61)(shape, out); }
  Status* sizes(const Shape* shape, int64_t* out, size_t rank) const {
    return at<Status* (*)(const Shape*, int64_t*, size_t)>(62)(shape, out, rank);
  }
  Status* count(const Shape* shape, size_t* out) const {
    return at<Status* (*)(const Shape*, size_t*)>(64)(shape, out);
  }
  Status* shape(const Value* value, Shape** out) const {
    return at<Status* (*)(const Value*, Shape**)>(65)(value, out);
  }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* out) const {
    return at<Status* (*)(const KernelInfo*, const char*, int64_t*)>(86)(info, name, out);
  }
  Status* input(const KernelContext* context, size_t index, const Value** out) const {
    return at<Status* (*)(const KernelContext*, size_t, const Value**)>(90)(context, index, out);
  }
  Status* output(KernelContext* context, size_t index, const int64_t* sizes, size_t rank, Value** out) const {
    return at<Status* (*)(KernelContext*, size_t, const int64_t*, size_t, Value**)>(91)(context, index, sizes, rank,
                                                                                        out);
  }
  void release(Shape* shape) const { at<void (*)(Shape*)>(99)(shape); }
  Status* constant(const KernelInfo* info, size_t index, int* is_constant, const Value** out) const {
    return at<Status* (*)(const KernelInfo*, size_t, int*, const Value**)>(249)(info, index, is_constant, out);
  }
  Status* parallel(const KernelContext* context, void (*task)(void*, size_t), size_t count, void* argument) const {
    return at<Status* (*)(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>(274)(
        context, task, count, 0, argument);
  }
};

struct ApiBase {
  const Api* (*get)(uint32_t version);
  const char* (*version)();
};

struct CustomOp {
  uint32_t version;
  void* (*create)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*provider)(const CustomOp*);
  ElementType (*input_type)(const CustomOp*, size_t);
  size_t (*num_inputs)(const CustomOp*);
  ElementType (*output_type)(const CustomOp*, size_t);
  size_t (*num_outputs)(const CustomOp*);
  void (*compute)(void*, KernelContext*);
  void (*destroy)(void*);
  Characteristic (*input_characteristic)(const CustomOp*, size_t);
  Characteristic (*output_characteristic)(const CustomOp*, size_t);
  int (*input_memory)(const CustomOp*, size_t);
  int (*variadic_min_inputs)(const CustomOp*);
  int (*variadic_inputs_alike)(const CustomOp*);
  int (*variadic_min_outputs)(const CustomOp*);
  int (*variadic_outputs_alike)(const CustomOp*);
  Status* (*create_or_fail)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*compute_or_fail)(void*, KernelContext*);
  void* later[7];  // fields of newer versions, which stay null
};

}  // namespace ort
