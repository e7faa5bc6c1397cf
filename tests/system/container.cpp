// SPDX-License-Identifier: Apache-2.0
// container: runs a command in a container of its own, as small as one can be: new mount, pid, ipc,
// network, host name and control group namespaces, a root of its own with the system's programs
// read-only, own /proc, /dev and /dev/shm, a user without privileges. Nothing of it outlives the
// command or this process: no directory, no mount, no name. For containers_test.py; one thread.
//
//   this process ---fork--> process 1 of the container (root there, reaps) ---fork--> the command
//
// Killing this process kills process 1, and the kernel kills what is left in its pid namespace.
// Exit codes: the command's, 128 + its signal, 77: not allowed here, 125: something else failed.
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

constexpr int kNotHere = 77;
constexpr int kFailed = 125;
/// Where the new root is put together: a directory that every system has and that the container
/// needs nothing of. Mounted over in our own mount namespace only.
const std::string kStage = "/sys";

struct Options {
    uid_t uid = 65534;
    unsigned long map_base = 0;      ///< 0: no user namespace
    std::vector<std::string> shown;  ///< read-only, at the same path
    std::vector<std::string> kept;   ///< writable
    bool io_uring = true;
    std::vector<char*> command;
};

[[noreturn]] void fail(const std::string& what) {
    const int error = errno;
    std::fprintf(stderr, "container: %s: %s\n", what.c_str(), std::strerror(error));
    ::_exit(error == EPERM || error == ENOSPC || error == ENOSYS ? kNotHere : kFailed);
}

void must(int result, const std::string& what) {
    if (result < 0) {
        fail(what);
    }
}

// -------------------------------------------------------------------------------- namespaces

/// uid and gid N of the new user namespace are base + N outside. Only a process that stayed outside
/// may say so: a child, forked before.
void enter_user_namespace(unsigned long base) {
    int ready[2];
    must(::pipe2(ready, O_CLOEXEC), "pipe");
    const pid_t outsider = ::fork();
    must(outsider, "fork");
    if (outsider == 0) {
        char byte;
        ::close(ready[1]);
        if (::read(ready[0], &byte, 1) != 1) {
            ::_exit(1);
        }
        const std::string process = "/proc/" + std::to_string(::getppid());
        const std::string line = "0 " + std::to_string(base) + " 65536\n";
        std::ofstream uids(process + "/uid_map");
        uids << line << std::flush;
        std::ofstream gids(process + "/gid_map");
        gids << line << std::flush;
        ::_exit(uids.good() && gids.good() ? 0 : 1);
    }
    must(::unshare(CLONE_NEWUSER), "unshare the users");
    must(static_cast<int>(::write(ready[1], "x", 1)), "write");
    int status = 0;
    must(::waitpid(outsider, &status, 0), "waitpid");
    errno = EPERM;
    must(status == 0 ? 0 : -1, "uid_map");
    must(::setgroups(0, nullptr), "setgroups");
    must(::setresgid(0, 0, 0), "setresgid");
    must(::setresuid(0, 0, 0), "setresuid");
}

// ---------------------------------------------------------------------------------- the root

/// Makes what is to be mounted over, of the same kind.
void make_place(const std::string& source, const std::string& place) {
    namespace fs = std::filesystem;
    std::error_code error;
    fs::create_directories(fs::path(place).parent_path(), error);
    if (fs::is_directory(source)) {
        fs::create_directories(place, error);
    } else {
        const int fd = ::open(place.c_str(), O_CREAT | O_CLOEXEC, 0644);
        must(fd, place);
        ::close(fd);
    }
}

void bind(const std::string& path, bool writable) {
    const std::string place = kStage + path;
    make_place(path, place);
    must(::mount(path.c_str(), place.c_str(), nullptr, MS_BIND | MS_REC, nullptr), "bind " + path);
    if (!writable) {
        // What was forbidden before stays so: in a user namespace it may not be dropped.
        struct statvfs is{};
        must(::statvfs(place.c_str(), &is), "statvfs " + path);
        const unsigned long keep = is.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC);
        const unsigned long times = is.f_flag & (ST_NOATIME | ST_NODIRATIME | ST_RELATIME);
        must(::mount(nullptr, place.c_str(), nullptr,
                     MS_REMOUNT | MS_BIND | MS_RDONLY | keep | times, nullptr),
             "remount " + path);
    }
}

void mount_new(const char* kind, const std::string& at, unsigned long flags, const char* data) {
    std::error_code error;
    std::filesystem::create_directories(kStage + at, error);
    must(::mount(kind, (kStage + at).c_str(), kind, flags, data), std::string("mount ") + kind);
}

void build_root(const Options& options) {
    must(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "make mounts private");
    must(::mount("tmpfs", kStage.c_str(), "tmpfs", MS_NOSUID, "mode=755,size=16m"), "mount root");
    // The system's programs. Where /bin is but a link to usr/bin, it is one in there, too.
    for (const std::string path : {"/usr", "/bin", "/sbin", "/lib", "/lib64"}) {
        std::error_code error;
        if (std::filesystem::is_symlink(path, error)) {
            std::filesystem::copy_symlink(path, kStage + path, error);
        } else if (std::filesystem::is_directory(path, error)) {
            bind(path, false);
        }
    }
    mount_new("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777,size=64m");
    mount_new("tmpfs", "/dev", MS_NOSUID, "mode=755,size=1m");
    for (const std::string path : {"/dev/null", "/dev/zero", "/dev/urandom"}) {
        bind(path, true);
    }
    must(::symlink("/proc/self/fd", (kStage + "/dev/fd").c_str()), "symlink");
    mount_new("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777,size=64m");
    mount_new("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
    for (const std::string& path : options.shown) {
        bind(path, false);
    }
    for (const std::string& path : options.kept) {
        bind(path, true);
    }
    must(::chdir(kStage.c_str()), "chdir");
    if (::syscall(SYS_pivot_root, ".", ".") == 0) {
        must(::umount2(".", MNT_DETACH), "umount the old root");
    } else {  // the old root is an initramfs, which cannot go
        must(::mount(".", "/", nullptr, MS_MOVE, nullptr), "move the root");
        must(::chroot("."), "chroot");
    }
    must(::chdir("/tmp"), "chdir");
}

// ------------------------------------------------------------------------------- the command

/// As container profiles do: EPERM for io_uring_setup, _enter and _register (the same numbers on
/// all machines).
void refuse_io_uring() {
    static_assert(SYS_io_uring_setup == 425 && SYS_io_uring_register == 427);
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, SYS_io_uring_setup, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, SYS_io_uring_register, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog filter{sizeof program / sizeof program[0], program};
    must(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), "seccomp");
}

[[noreturn]] void run_command(const Options& options) {
    must(::setgroups(0, nullptr), "setgroups");
    must(::setresgid(options.uid, options.uid, options.uid), "setresgid");
    must(::setresuid(options.uid, options.uid, options.uid), "setresuid");
    must(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    if (!options.io_uring) {
        refuse_io_uring();
    }
    ::execvp(options.command[0], options.command.data());
    fail(options.command[0]);
}

/// Process 1: waits for the command and for whoever is left behind by it.
[[noreturn]] void run_first_process(const Options& options) {
    must(::prctl(PR_SET_PDEATHSIG, SIGKILL), "pdeathsig");
    build_root(options);
    const pid_t command = ::fork();
    must(command, "fork");
    if (command == 0) {
        run_command(options);
    }
    int result = kFailed;
    int status = 0;
    for (pid_t pid; (pid = ::wait(&status)) > 0 || errno == EINTR;) {
        if (pid == command) {
            result = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        }
    }
    ::_exit(result);
}

Options parse(int argc, char** argv) {
    static const option kLong[] = {
        {"uid", required_argument, nullptr, 'u'},   {"map", required_argument, nullptr, 'm'},
        {"show", required_argument, nullptr, 's'},  {"keep", required_argument, nullptr, 'k'},
        {"no-io-uring", no_argument, nullptr, 'n'}, {},
    };
    Options options;
    for (int found; (found = ::getopt_long(argc, argv, "+", kLong, nullptr)) != -1;) {
        switch (found) {
        case 'u':
            options.uid = static_cast<uid_t>(std::strtoul(optarg, nullptr, 10));
            break;
        case 'm':
            options.map_base = std::strtoul(optarg, nullptr, 10);
            break;
        case 's':
            options.shown.push_back(optarg);
            break;
        case 'k':
            options.kept.push_back(optarg);
            break;
        case 'n':
            options.io_uring = false;
            break;
        default:
            std::exit(kFailed);
        }
    }
    options.command.assign(argv + optind, argv + argc);
    if (options.command.empty()) {
        std::fputs(
            "Usage: container [--uid N] [--map BASE] [--show PATH]... [--keep PATH]...\n"
            "                 [--no-io-uring] -- COMMAND [ARGUMENT]...\n",
            stderr);
        std::exit(kFailed);
    }
    options.command.push_back(nullptr);
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    if (options.map_base != 0) {
        enter_user_namespace(options.map_base);
    }
    must(::unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS |
                   CLONE_NEWCGROUP),
         "unshare");
    const pid_t first = ::fork();
    must(first, "fork");
    if (first == 0) {
        run_first_process(options);
    }
    int status = 0;
    while (::waitpid(first, &status, 0) < 0 && errno == EINTR) {}
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
