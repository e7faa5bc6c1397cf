// SPDX-License-Identifier: Apache-2.0
// See error_text.hpp.
#include "error_text.hpp"

namespace ipcbus::client {

namespace {
thread_local std::string text_of_thread;
}

int failed(int code, std::string text) {
    text_of_thread = std::move(text);
    return -code;
}

int failed(const sys::Error& error) { return failed(error.code, error.what); }

const char* error_text() { return text_of_thread.c_str(); }

int used_after_fork() {
    return failed(ECHILD, "this handle belongs to the process that forked; connect anew");
}

}  // namespace ipcbus::client
