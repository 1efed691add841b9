#include "tests/simt/symbols.h"

#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace simt {
namespace {

struct Symbols {
  std::map<const void*, std::string> functions;  // mangled
  std::vector<DeviceVariable> shared, global;
};

std::string demangle(const std::string& name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  std::string result = status == 0 ? text : name;
  std::free(text);
  for (const char* noise : {"(anonymous namespace)::", "minidl::", "gpu::", "[abi:simt_shared]", "[abi:simt_device]"})
    for (std::size_t at; (at = result.find(noise)) != std::string::npos;) result.erase(at, std::strlen(noise));
  return result;
}

// Removes the parameters, and the return type that names of templates begin with.
std::string short_name(const std::string& demangled) {
  int depth = 0;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < demangled.size(); ++i) {
    const char c = demangled[i];
    if (c == '(' && depth == 0) return demangled.substr(begin, i - begin);
    if (c == ' ' && depth == 0) begin = i + 1;
    if (c == '<') ++depth;
    if (c == '>') --depth;
  }
  return demangled.substr(begin);
}

Symbols read_symbols() {
  Symbols symbols;
  constexpr const char* kProgram = "/proc/self/exe";
  std::ifstream in(kProgram, std::ios::binary);
  std::vector<char> file(std::filesystem::file_size(kProgram));  // hundreds of MB under sanitizers
  if (!in.read(file.data(), static_cast<std::streamsize>(file.size()))) return symbols;
  // The first object is the program itself.
  std::uintptr_t base = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* result) {
        *static_cast<std::uintptr_t*>(result) = info->dlpi_addr;
        return 1;
      },
      &base);
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(file.data());
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(file.data() + header->e_shoff);
  for (int s = 0; s < header->e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) continue;
    const char* names = file.data() + sections[sections[s].sh_link].sh_offset;
    const auto* table = reinterpret_cast<const ElfW(Sym)*>(file.data() + sections[s].sh_offset);
    for (std::size_t i = 0; i < sections[s].sh_size / sizeof(ElfW(Sym)); ++i) {
      const char* name = names + table[i].st_name;
      char* address = reinterpret_cast<char*>(base + table[i].st_value);
      const int type = ELF64_ST_TYPE(table[i].st_info);
      if (type == STT_FUNC && table[i].st_size > 0) symbols.functions.emplace(address, name);
      if (type == STT_OBJECT && std::strstr(name, "B11simt_shared"))
        symbols.shared.push_back({name, address, table[i].st_size});
      else if (type == STT_OBJECT && std::strstr(name, "B11simt_device") && std::strncmp(name, "_ZZ", 3) != 0)
        symbols.global.push_back({name, address, table[i].st_size});
    }
  }
  for (std::vector<DeviceVariable>* variables : {&symbols.shared, &symbols.global}) {
    std::sort(variables->begin(), variables->end(),
              [](const DeviceVariable& a, const DeviceVariable& b) { return a.address < b.address; });
    for (DeviceVariable& variable : *variables) variable.name = demangle(variable.name);
  }
  return symbols;
}

const Symbols& symbols() {
  static const Symbols instance = read_symbols();
  return instance;
}

}  // namespace

std::string function_name(const void* address) {
  static std::map<const void*, std::string> names;
  std::string& name = names[address];
  if (!name.empty()) return name;
  const auto found = symbols().functions.find(address);
  if (found != symbols().functions.end()) return name = short_name(demangle(found->second));
  std::ostringstream text;
  text << "kernel at " << address;
  return name = text.str();
}

const std::vector<DeviceVariable>& shared_variables() { return symbols().shared; }
const std::vector<DeviceVariable>& global_variables() { return symbols().global; }

}  // namespace simt
