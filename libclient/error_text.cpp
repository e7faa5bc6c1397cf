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

/// The closed table of ipcbus.h: what the system says beyond it becomes the nearest of it.
int failed(const sys::Error& error) {
    switch (error.code) {
        case EPERM: return failed(EACCES, error.what);
        case ENFILE: return failed(EMFILE, error.what);
        case EAGAIN: case ETIMEDOUT: case EINTR: case EMSGSIZE: case ESHUTDOWN: case ECONNREFUSED:
        case EACCES: case EDQUOT: case ENOSPC: case EMFILE: case ENOMEM: case EDEADLK: case EBUSY:
        case ECHILD: case EINVAL: case ENOENT: case ENAMETOOLONG: case EPROTO: case EPROTONOSUPPORT:
            return failed(error.code, error.what);
        case ENOTDIR: case ELOOP: case EPROTOTYPE: case ECONNRESET: case EPIPE: case EADDRNOTAVAIL:
            return failed(ECONNREFUSED, error.what);
        default: return failed(EPROTO, error.what);
    }
}

const char* error_text() { return text_of_thread.c_str(); }

int used_after_fork() {
    return failed(ECHILD, "this handle belongs to the process that forked; connect anew");
}

}  // namespace ipcbus::client
