#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every function that ipcbusd calls outside itself can be made to fail by the preloaded library, or
stands below with the reason why it need not. So a new system call in the daemon needs a thought.
Usage: symbols_test.py IPCBUSD PRELOAD"""

import re
import subprocess
import sys

# No system calls, or none whose failure the caller can be told of.
EXEMPT = {
    "memory and strings": "freeaddrinfo memchr memcmp memcpy memmove memset strcmp strlen strnlen bcmp",
    "text": "fprintf fputs gai_strerror inet_ntop inet_pton printf putc puts putchar fputc fwrite "
            "snprintf strerror strftime strsignal stderr stdout",
    "arguments and environment": "getenv getopt_long optarg opterr optind optopt secure_getenv",
    "never fail": "__errno_location clock_gettime geteuid getpid io_uring_free_probe "
                  "io_uring_queue_exit sigaddset sigemptyset sigfillset sysconf time timegm umask",
    # Of one's own: a plain mutex, a thread that has been made, a size above the least.
    "never fail with these arguments":
        "pthread_attr_destroy pthread_attr_init pthread_attr_setstacksize pthread_join "
        "pthread_mutex_lock pthread_mutex_unlock pthread_sigmask",
    "the end": "__assert_fail abort _exit exit",
    # Descriptors are sent by io_uring here; a signal for who asked an Alarm for it.
    "of the client's side, in the same archive": "access sendmsg sigqueue",
    "the C library's and the compiler's own":
        "__cxa_atexit __cxa_finalize __gmon_start__ __libc_single_threaded __libc_start_main "
        "__popcountdi2 __stack_chk_fail __tls_get_addr _ITM_deregisterTMCloneTable "
        "_ITM_registerTMCloneTable _Unwind_Resume environ pthread_atfork __register_atfork",
}
# C++ (of libraries, which make no system calls but for memory), OpenSSL, which is used between memory
# and memory, and what sanitizers add.
NOT_C = re.compile(r"_Z|.*@OPENSSL_|__(asan|ubsan|tsan|lsan|msan|sanitizer|cxa|gxx|dynamic_cast)")


def symbols(*arguments):
    lines = subprocess.run(["nm", "-D", *arguments], check=True, capture_output=True,
                           text=True).stdout.splitlines()
    names = (line.split()[-1] for line in lines)
    return {name.split("@")[0] for name in names if not NOT_C.match(name)}


def main():
    daemon, preload = sys.argv[1:]
    called = symbols("--undefined-only", daemon)
    failable = symbols("--defined-only", preload)
    exempt = {name for names in EXEMPT.values() for name in names.split()}
    missing = sorted(called - failable - exempt)
    for name in missing:
        print(f"{name}: ipcbusd calls it; tests/faults cannot make it fail, nor say why not")
    both = sorted(failable & exempt)
    for name in both:
        print(f"{name}: can be made to fail, and is exempt")
    print(f"{len(called)} called, {len(called & failable)} of them can be made to fail")
    if len(called & failable) < 40:
        print("these are too few: nm has not told everything")
        return 1
    return 1 if missing or both else 0


if __name__ == "__main__":
    sys.exit(main())
