#include "apps/interrupt.h"

#include <unistd.h>

#include <csignal>

#include "apps/command_line.h"

namespace minidl {
namespace {

volatile std::sig_atomic_t requested = 0;

void handle(int) {
  if (requested) _exit(kInterruptedExit);
  requested = 1;
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;  // a file being written is written to its end
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return requested != 0; }

}  // namespace minidl
