#include "models/onnx_export.h"

#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <bit>
#include <exception>
#include <map>
#include <span>

#include "core/check.h"
#include "core/file.h"
#include "core/version.h"
#include "models/onnx_graph.h"

namespace minidl {
namespace {

static_assert(std::endian::native == std::endian::little, "ONNX stores little-endian values");

constexpr int kIrVersion = 8;  // the one that came with opset 17
constexpr int kOpset = 17;
// Where a tensor in a file of its own may begin, so that it can be mapped into memory.
constexpr std::int64_t kPage = 4096;

void describe(const GeneratorOptions& o, const std::string& direction, std::int64_t step, onnx::ModelProto& model) {
  const std::string from = direction.substr(0, 1), to = direction.substr(2, 1);
  const std::string size = std::to_string(o.image_size), colour = o.image_channels == 1 ? "grey" : "RGB";
  model.set_ir_version(kIrVersion);
  model.add_opset_import()->set_version(kOpset);
  model.set_producer_name("libminidl");
  model.set_producer_version(kVersion);
  model.set_model_version(step);
  model.set_doc_string(concat_text(
      "U-GAT-IT generator ", direction, ": translates an image of domain ", from, " into one of domain ", to,
      ". Input 'source': ", colour, " images [batch, ", o.image_channels, ", height, width] with values in [-1, 1]; ",
      o.light ? concat_text("height and width multiples of 4, at least 16 (trained at ", size, ")")
              : concat_text("height and width ", size),
      ". Output 'image': the translations, likewise. Output 'heatmap': the attention, at a quarter of the size. After ",
      step, " iterations of training."));
  const std::map<std::string, std::string> metadata{
      {"direction", direction},
      {"iterations", std::to_string(step)},
      {"ch", std::to_string(o.channels)},
      {"n_res", std::to_string(o.residual_blocks)},
      {"img_ch", std::to_string(o.image_channels)},
      {"img_size", size},
      {"light", o.light ? "true" : "false"},
      {"input_range", "[-1, 1]"},
      {"layout", colour + " NCHW"},
  };
  for (const auto& [key, value] : metadata) {
    onnx::StringStringEntryProto& entry = *model.add_metadata_props();
    entry.set_key(key);
    entry.set_value(value);
  }
}

// Adds a tensor of the state to the graph, its values excepted.
onnx::TensorProto& add_initializer(onnx::GraphProto& graph, const StateEntry& entry) {
  onnx::TensorProto& tensor = *graph.add_initializer();
  tensor.set_name(entry.name);
  tensor.set_data_type(onnx::TensorProto::FLOAT);
  for (const std::int64_t extent : entry.tensor->shape().extents()) tensor.add_dims(extent);
  return tensor;
}

void refer(onnx::TensorProto& tensor, const std::string& location, std::int64_t offset, std::int64_t length) {
  tensor.set_data_location(onnx::TensorProto::EXTERNAL);
  const auto add = [&](const char* key, const std::string& value) {
    onnx::StringStringEntryProto& entry = *tensor.add_external_data();
    entry.set_key(key);
    entry.set_value(value);
  };
  add("location", location);
  add("offset", std::to_string(offset));
  add("length", std::to_string(length));
}

// Lets protobuf write into an AtomicFile. What that throws must not pass through protobuf, whose destructors write: it
// waits here.
class FileSink final : public google::protobuf::io::CopyingOutputStream {
 public:
  explicit FileSink(AtomicFile& file) : file_(file) {}

  bool Write(const void* bytes, int size) override {
    if (!error_) try {
        file_.write({static_cast<const std::byte*>(bytes), static_cast<std::size_t>(size)});
      } catch (...) {
        error_ = std::current_exception();
      }
    return !error_;
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  AtomicFile& file_;
  std::exception_ptr error_;
};

void write_message(const onnx::ModelProto& model, AtomicFile& file, const std::filesystem::path& name) {
  FileSink sink(file);
  bool complete = false;
  {
    google::protobuf::io::CopyingOutputStreamAdaptor stream(&sink, 1 << 20);
    complete = model.SerializeToZeroCopyStream(&stream) && stream.Flush();
  }
  sink.rethrow();
  check(complete, "cannot write ", name.string(), ": the model does not fit into a protobuf message of 2 GiB");
}

}  // namespace

bool can_write_onnx() { return true; }

void write_onnx(const std::filesystem::path& file, Generator& generator, const std::string& direction,
                std::int64_t step, std::int64_t max_inline_bytes) {
  check(direction == "A2B" || direction == "B2A", "write_onnx: the direction is A2B or B2A, not ", direction);
  onnx::ModelProto model;
  describe(generator.options(), direction, step, model);
  onnx::GraphProto& graph = *model.mutable_graph();
  graph.set_name("generator_" + direction);
  build_generator_graph(generator.options(), graph);

  const std::vector<StateEntry> state = state_of(generator);
  std::int64_t total = 0;
  for (const StateEntry& entry : state) total += 4 * entry.tensor->size();
  AtomicFile graph_file(file);
  if (total <= max_inline_bytes) {
    for (const StateEntry& entry : state) {
      const std::vector<float> values = entry.tensor->to_host();
      add_initializer(graph, entry).set_raw_data(values.data(), values.size() * sizeof(float));
    }
    write_message(model, graph_file, file);
    graph_file.commit();
    return;
  }

  const std::filesystem::path data = file.string() + ".data";
  AtomicFile data_file(data);
  const std::vector<std::byte> zeros(kPage);
  std::int64_t position = 0;
  for (const StateEntry& entry : state) {
    const std::int64_t gap = (kPage - position % kPage) % kPage;
    data_file.write(std::span(zeros).first(static_cast<std::size_t>(gap)));
    const std::vector<float> values = entry.tensor->to_host();
    const auto bytes = std::as_bytes(std::span(values));
    data_file.write(bytes);
    refer(add_initializer(graph, entry), data.filename().string(), position + gap,
          static_cast<std::int64_t>(bytes.size()));
    position += gap + static_cast<std::int64_t>(bytes.size());
  }
  write_message(model, graph_file, file);
  // Everything is on the disk before anything is replaced, and for the moment that this takes there is no graph rather
  // than an old one beside new tensors.
  data_file.flush();
  graph_file.flush();
  std::error_code ignored;
  std::filesystem::remove(file, ignored);
  data_file.commit();
  graph_file.commit();
}

}  // namespace minidl
