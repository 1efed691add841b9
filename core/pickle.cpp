#include "core/pickle.h"

#include <bit>
#include <cstring>
#include <unordered_map>

#include "core/arrays.h"

namespace minidl {
namespace {

// A state dict of U-GAT-IT has some ten thousand, each of a byte or more in the file and a hundred in memory.
constexpr std::size_t kMaxValues = 1'000'000;
constexpr int kNewestProtocol = 5;

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw CheckpointError(concat_text(parts...));
}

[[noreturn]] void refuse_malformed() { refuse("is damaged: its pickle is malformed"); }

}  // namespace

// One run: the stack machine of Python's pickle module.
class Unpickler::Machine {
 public:
  Machine(Unpickler& owner, std::span<const std::byte>& bytes) : owner_(owner), bytes_(bytes) {}

  const Value& run() {
    for (;;) {
      const auto opcode = number<std::uint8_t>();
      if (opcode == '.') break;
      step(opcode);
    }
    if (stack_.size() != 1 || !marks_.empty()) refuse_malformed();
    return *stack_.back();
  }

 private:
  void step(std::uint8_t opcode) {
    switch (opcode) {
      case 0x80:  // PROTO
        if (number<std::uint8_t>() > kNewestProtocol) refuse("is of a pickle protocol that this version does not know");
        break;
      case 0x95:  // FRAME
        number<std::uint64_t>();
        break;

      case 'N':
        push(Kind::none);
        break;
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        push(Kind::boolean).integer = opcode == 0x88;
        break;
      case 'K':
        push(Kind::integer).integer = number<std::uint8_t>();
        break;
      case 'M':
        push(Kind::integer).integer = number<std::uint16_t>();
        break;
      case 'J':
        push(Kind::integer).integer = number<std::int32_t>();
        break;
      case 0x8a:  // LONG1
        push_long(take(number<std::uint8_t>()));
        break;
      case 'G': {
        std::uint64_t bits = 0;  // big-endian
        for (const std::byte b : take(8)) bits = bits << 8 | std::to_integer<std::uint64_t>(b);
        push(Kind::real).real = std::bit_cast<double>(bits);
        break;
      }
      case 'X':  // BINUNICODE
      case 'T':  // BINSTRING, of Python 2
        push_text(take(number<std::uint32_t>()));
        break;
      case 0x8c:  // SHORT_BINUNICODE
      case 'U':   // SHORT_BINSTRING
        push_text(take(number<std::uint8_t>()));
        break;
      case 0x8d:  // BINUNICODE8
        push_text(take(number<std::uint64_t>()));
        break;

      case '(':
        marks_.push_back(stack_.size());
        break;
      case ')':
        push(Kind::tuple);
        break;
      case ']':
        push(Kind::list);
        break;
      case '}':
        push(Kind::dict);
        break;
      case 't':
        push_tuple(pop_to_mark());
        break;
      case 0x85:  // TUPLE1
      case 0x86:  // TUPLE2
      case 0x87:  // TUPLE3
        push_tuple(pop(opcode - 0x84u));
        break;
      case 'a':
        extend(Kind::list, pop(1));
        break;
      case 'e':
        extend(Kind::list, pop_to_mark());
        break;
      case 's':
        extend(Kind::dict, pop(2));
        break;
      case 'u':
        extend(Kind::dict, pop_to_mark());
        break;

      case 'q':
        memo_[number<std::uint8_t>()] = &top();
        break;
      case 'r':
        memo_[number<std::uint32_t>()] = &top();
        break;
      case 0x94:  // MEMOIZE
        memo_[static_cast<std::uint32_t>(memo_.size())] = &top();
        break;
      case 'h':
        push_remembered(number<std::uint8_t>());
        break;
      case 'j':
        push_remembered(number<std::uint32_t>());
        break;

      case 'c': {
        const std::string module = line(), name = line();
        push_function(module + " " + name);
        break;
      }
      case 0x93: {  // STACK_GLOBAL
        const auto names = pop(2);
        if (!names[0]->is(Kind::text) || !names[1]->is(Kind::text)) refuse_malformed();
        push_function(names[0]->text + " " + names[1]->text);
        break;
      }
      case 'R': {
        const auto call = pop(2);
        if (!call[0]->is(Kind::function) || !call[1]->is(Kind::tuple)) refuse_malformed();
        stack_.push_back(&owner_.call(*call[0], *call[1]));
        break;
      }
      case 'b':  // BUILD: what a state dict keeps besides its items, the versions of its modules
        if (!pop(1)[0]->is(Kind::dict) || !top().is(Kind::dict)) refuse_malformed();
        break;
      case 'Q':
        stack_.push_back(&owner_.persistent(*pop(1)[0]));
        break;

      default: {
        static constexpr char kDigits[] = "0123456789abcdef";
        refuse("holds a pickle with the instruction 0x", kDigits[opcode >> 4], kDigits[opcode & 15],
               ", which no state dict needs");
      }
    }
  }

  std::span<const std::byte> take(std::uint64_t count) {
    if (count > bytes_.size()) refuse("is truncated: its pickle ends early");
    const auto taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string line() {
    const auto* begin = reinterpret_cast<const char*>(bytes_.data());
    const void* end = bytes_.empty() ? nullptr : std::memchr(begin, '\n', bytes_.size());
    if (end == nullptr) refuse("is truncated: its pickle ends early");
    const std::string text(begin, static_cast<const char*>(end));
    take(text.size() + 1);
    return text;
  }

  Value& push(Kind kind) {
    Value& value = owner_.make(kind);
    stack_.push_back(&value);
    return value;
  }

  void push_text(std::span<const std::byte> bytes) {
    push(Kind::text).text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

  // Two's complement, little-endian.
  void push_long(std::span<const std::byte> bytes) {
    if (bytes.size() > 8) {
      push(Kind::large_integer).text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return;
    }
    const bool negative = !bytes.empty() && std::to_integer<int>(bytes.back()) >= 128;
    std::int64_t value = negative ? -1 : 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    push(Kind::integer).integer = value;
  }

  void push_tuple(std::vector<Value*> items) { push(Kind::tuple).items = std::move(items); }

  void push_function(const std::string& name) {
    if (!owner_.allows(name)) {
      const std::string shown = quoted(name);
      refuse("asks for the Python object ", shown, ", which no state dict needs; it was not run");
    }
    push(Kind::function).text = name;
  }

  void push_remembered(std::uint32_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) refuse_malformed();
    stack_.push_back(found->second);
  }

  // What lies above the last mark stays out of reach until the mark goes.
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  Value& top() {
    if (stack_.size() <= floor()) refuse_malformed();
    return *stack_.back();
  }

  std::vector<Value*> pop(std::size_t count) {
    if (stack_.size() - floor() < count) refuse_malformed();
    const auto begin = stack_.end() - static_cast<std::ptrdiff_t>(count);
    std::vector<Value*> values(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    return values;
  }

  std::vector<Value*> pop_to_mark() {
    if (marks_.empty()) refuse_malformed();
    auto values = pop(stack_.size() - marks_.back());
    marks_.pop_back();
    return values;
  }

  void extend(Kind kind, const std::vector<Value*>& items) {
    Value& container = top();
    if (!container.is(kind) || (kind == Kind::dict && items.size() % 2 != 0)) refuse_malformed();
    container.items.insert(container.items.end(), items.begin(), items.end());
  }

  Unpickler& owner_;
  std::span<const std::byte>& bytes_;
  std::vector<Value*> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint32_t, Value*> memo_;
};

const PickleValue& Unpickler::run(std::span<const std::byte>& bytes) { return Machine(*this, bytes).run(); }

PickleValue& Unpickler::make(Kind kind) {
  if (values_.size() >= kMaxValues) refuse("holds a pickle of more values than any state dict has");
  values_.emplace_back().kind = kind;
  return values_.back();
}

}  // namespace minidl
