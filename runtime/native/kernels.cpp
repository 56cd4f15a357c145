// The packed linears of `ops/packed_*.py` as operators of ONNX Runtime, for processors with AVX-512 VNNI, and with AMX
// where there are many rows: a session that this library is registered with runs them instead of inlining the functions
// of the same name.
#include <sched.h>

#include <string>

#include "formats.h"
#include "ort_abi.h"
#include "vnni.h"

#if __has_include(<amxint8intrin.h>)  // since GCC 11
#define HAS_AMX
#include "amx.h"
#endif

namespace {

constexpr int64_t kWorthAThread = 60'000, kWorthATask = 600'000;  // multiplications
constexpr int64_t kWorthPacking = 200'000;                        // weights

struct Op : ort::CustomOp {
  const formats::Format* format;
};

const formats::Format& format_of(const ort::CustomOp* op) { return *static_cast<const Op*>(op)->format; }

struct Kernel {
  const ort::Api* api;
  vnni::Weights weights;
};

// A step of a computation with ONNX Runtime failed: says so to it.
struct Failed {
  ort::Status* status;
};

void check(ort::Status* status) {
  if (status) throw Failed{status};
}

template <typename Function>
ort::Status* guarded(const ort::Api* api, Function function) noexcept {
  try {
    function();
    return nullptr;
  } catch (const Failed& failed) {
    return failed.status;
  } catch (const std::exception& error) {
    return api->status(error.what());
  }
}

struct Sizes {
  int64_t of[8];
  size_t rank;
};

Sizes sizes_of(const ort::Api* api, const ort::Value* value) {
  ort::Shape* shape;
  check(api->shape(value, &shape));
  Sizes sizes{};
  ort::Status* status = api->rank(shape, &sizes.rank);
  if (!status && sizes.rank > 8) status = api->status("a packed linear takes at most 8 axes");
  if (!status) status = api->sizes(shape, sizes.of, sizes.rank);
  api->release(shape);
  check(status);
  return sizes;
}

ort::ElementType type_of(const ort::Api* api, const ort::Value* value) {
  ort::Shape* shape;
  check(api->shape(value, &shape));
  ort::ElementType type;
  ort::Status* status = api->type(shape, &type);
  api->release(shape);
  check(status);
  return type;
}

template <typename Element>
Element* data_of(const ort::Api* api, const ort::Value* value) {
  void* data;
  check(api->data(const_cast<ort::Value*>(value), &data));
  return static_cast<Element*>(data);
}

int num_processors() {
  static const int count = [] {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  }();
  return count;
}

// Of a graph, for which a kernel is made.
struct Node {
  const ort::Api* api;
  const ort::KernelInfo* info;
  const char* name;

  [[noreturn]] void refuse(const std::string& problem) const {
    throw Failed{api->status((std::string(name) + ": " + problem).c_str())};
  }

  int64_t attribute(const char* key) const {
    int64_t value;
    check(api->attribute(info, key, &value));
    return value;
  }

  const ort::Value* plane(size_t index) const {
    int is_constant = 0;
    const ort::Value* plane;
    check(api->constant(info, index + 1, &is_constant, &plane));
    if (!is_constant) refuse("its planes must be constants");
    return plane;
  }
};

formats::Format integers(const formats::Format& format, const Node& node) {
  const int64_t bits = node.attribute("bits"), block_size = node.attribute("block_size");
  if ((bits != 4 && bits != 8) || block_size < 16 || block_size > 256 || block_size & (block_size - 1))
    node.refuse("bits must be 4 or 8 and block_size a power of two from 16 to 256");
  const ort::ElementType scale = type_of(node.api, node.plane(1));
  if (scale != ort::kFloat16 && scale != ort::kFloat) node.refuse("its scales must be float16 or float32");
  return formats::integers(format, int(bits), int(block_size), scale);
}

vnni::Weights read(const formats::Format& registered, const Node& node) {
  const formats::Format format = registered.columns ? registered : integers(registered, node);
  const int64_t columns = node.attribute("K"), rows = node.attribute("N");
  if (rows < 1 || columns < 1 || rows > INT32_MAX || columns > INT32_MAX || columns % format.columns)
    node.refuse("N or K does not fit the format");
  const void* planes[5];
  for (size_t i = 0; i < format.num_planes; i++) {
    const ort::Value* plane = node.plane(i);
    const Sizes sizes = sizes_of(node.api, plane);
    int64_t count = 1, wanted = rows * (columns / format.columns) * int64_t(format.planes[i].per_block);
    for (size_t axis = 0; axis < sizes.rank; axis++) count *= sizes.of[axis];
    if (count != wanted)
      node.refuse("plane " + std::to_string(i) + " has " + std::to_string(count) + " elements, not " +
                  std::to_string(wanted));
    planes[i] = data_of<void>(node.api, plane);
  }
  const int threads = int(std::clamp<int64_t>(rows * columns / kWorthPacking, 1, num_processors()));
  return vnni::packed(format, planes, int(rows), int(columns), threads);
}

struct Work {
  const vnni::Weights* weights;
  const float* x;
  vnni::Rounded* rounded;
  float* y;
  int rows, parts_of_rows, parts_of_panels;
};

int part(int64_t whole, int64_t index, int64_t parts) { return int(whole * index / parts); }

void round_part(void* argument, size_t index) {
  const Work& work = *static_cast<const Work*>(argument);
  vnni::round_rows(*work.weights, work.x, part(work.rows, index, work.parts_of_rows),
                   part(work.rows, index + 1, work.parts_of_rows), *work.rounded);
}

auto multiply_here() {
#ifdef HAS_AMX
  if (amx::is_usable()) return amx::multiply;
#endif
  return vnni::multiply;
}

void multiply_part(void* argument, size_t index) {
  const Work& work = *static_cast<const Work*>(argument);
  const int rows = int(index) / work.parts_of_panels, panels = int(index) % work.parts_of_panels;
  const int num_panels = work.weights->num_panels(), block = work.rounded->block;
  const int num_blocks = (work.rows + block - 1) / block;
  multiply_here()(*work.weights, *work.rounded, part(num_blocks, rows, work.parts_of_rows) * block,
                  std::min(work.rows, part(num_blocks, rows + 1, work.parts_of_rows) * block),
                  part(num_panels, panels, work.parts_of_panels), part(num_panels, panels + 1, work.parts_of_panels),
                  work.y);
}

// So many that all threads have the same, unless there is too little to do.
int num_tasks(int64_t multiplications, int64_t most) {
  const int64_t threads = num_processors();
  const int64_t wanted = multiplications < threads * kWorthAThread
                             ? multiplications / kWorthAThread
                             : (multiplications / kWorthATask + threads - 1) / threads * threads;
  return int(std::clamp<int64_t>(wanted, 1, most));
}

void compute(const Kernel& kernel, ort::KernelContext* context) {
  const ort::Api* api = kernel.api;
  const vnni::Weights& weights = kernel.weights;
  const ort::Value* input;
  check(api->input(context, 0, &input));
  Sizes sizes = sizes_of(api, input);
  if (sizes.rank < 1 || sizes.of[sizes.rank - 1] != weights.columns)
    throw Failed{api->status("a packed linear got rows of another length than its weights have")};
  int64_t rows = 1;
  for (size_t axis = 0; axis + 1 < sizes.rank; axis++) rows *= sizes.of[axis];
  sizes.of[sizes.rank - 1] = weights.rows;
  ort::Value* output;
  check(api->output(context, 0, sizes.of, sizes.rank, &output));
  if (rows == 0) return;

  thread_local vnni::Rounded rounded;
  rounded.resize(int(rows), weights.columns, weights.num_groups());
  Work work{&weights, data_of<const float>(api, input), &rounded, data_of<float>(api, output), int(rows), 1, 1};
  work.parts_of_rows = int(std::min<int64_t>(rows, num_tasks(rows * weights.columns * 16, 64)));
  if (work.parts_of_rows == 1)
    round_part(&work, 0);
  else
    check(api->parallel(context, round_part, work.parts_of_rows, &work));
  work.parts_of_rows = int((rows + vnni::kRowsAtOnce - 1) / vnni::kRowsAtOnce);
  const int64_t each = (rows + work.parts_of_rows - 1) / work.parts_of_rows * weights.columns * weights.rows;
  work.parts_of_panels = num_tasks(each, weights.num_panels());
  const int tasks = work.parts_of_rows * work.parts_of_panels;
  if (tasks == 1)
    multiply_part(&work, 0);
  else
    check(api->parallel(context, multiply_part, tasks, &work));
}

ort::Status* create(const ort::CustomOp* op, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
  return guarded(api, [&] {
    const formats::Format& format = format_of(op);
    *kernel = new Kernel{api, read(format, Node{api, info, format.name})};
  });
}

ort::Status* run(void* kernel, ort::KernelContext* context) {
  const auto& each = *static_cast<const Kernel*>(kernel);
  return guarded(each.api, [&] { compute(each, context); });
}

Op defined(const formats::Format& format) {
  Op op{};
  op.format = &format;
  op.version = ort::kCustomOpVersion;
  op.name = [](const ort::CustomOp* self) { return format_of(self).name; };
  op.provider = [](const ort::CustomOp*) { return "CPUExecutionProvider"; };
  op.num_inputs = [](const ort::CustomOp* self) { return format_of(self).num_planes + 1; };
  op.num_outputs = [](const ort::CustomOp*) -> size_t { return 1; };
  op.input_type = [](const ort::CustomOp* self, size_t index) {
    return index == 0 ? ort::kFloat : format_of(self).planes[index - 1].type;
  };
  op.output_type = [](const ort::CustomOp*, size_t) { return ort::kFloat; };
  op.input_characteristic = [](const ort::CustomOp*, size_t) { return ort::kRequired; };
  op.output_characteristic = [](const ort::CustomOp*, size_t) { return ort::kRequired; };
  op.input_memory = [](const ort::CustomOp*, size_t) { return 0; };
  op.variadic_min_inputs = op.variadic_inputs_alike = [](const ort::CustomOp*) { return 1; };
  op.variadic_min_outputs = op.variadic_outputs_alike = [](const ort::CustomOp*) { return 1; };
  op.create_or_fail = create;
  op.compute_or_fail = run;
  op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return op;
}

ort::Domain* made_domain(const ort::Api* api) {
  static Op ops[formats::kNumFormats];
  ort::Domain* domain;
  check(api->create_domain("mistralrs", &domain));
  for (size_t i = 0; i < formats::kNumFormats; i++) {
    ops[i] = defined(formats::kFormats[i]);
    check(api->add_to_domain(domain, &ops[i]));
  }
  return domain;
}

}  // namespace

// Whether this processor has what the kernels need.
extern "C" __attribute__((visibility("default"))) int mistralrs_is_supported() {
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// What ONNX Runtime looks for in a library of custom operators.
extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                                 const ort::ApiBase* base) {
  const ort::Api* api = base->get(ort::kApiVersion);
  return guarded(api, [&] {
    static ort::Domain* const domain = made_domain(api);  // sessions share it
    check(api->add_domain(options, domain));
  });
}
