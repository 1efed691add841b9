// Ctrl-C: the first asks a program to finish what it is at, the second ends it at once.
#pragma once

namespace minidl {

// Takes over SIGINT and SIGTERM for the rest of the process.
void install_interrupt_handler();
// True once the user has asked to stop.
bool interrupted();

}  // namespace minidl
