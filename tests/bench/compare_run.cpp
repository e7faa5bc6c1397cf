// SPDX-License-Identifier: Apache-2.0
// compare_run: runs the same workloads on ipcbus, on its peers and on the limits of the machine, in
// slices of a few milliseconds, round after round, and writes what each slice took as JSON. The
// script `compare` runs it and makes the tables. One process (A, the writer) and its forked
// readers.
#include "peers/stage.hpp"

#include <getopt.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace {

constexpr char kHelp[] =
    "usage: compare_run --build-dir DIR --directory DIR [options]\n"
    "  --build-dir DIR    of ipcbus's build, where daemon/ipcbusd is\n"
    "  --directory DIR    empty, for sockets and servers' files\n"
    "  --json FILE        where the results go (default: standard output)\n"
    "  --only LIST        workloads, by name or the part before a '-', with commas\n"
    "  --peers LIST       peers beside the limits, by name, with commas\n"
    "  --slices N         rounds, a slice of each task in each (default 50)\n"
    "  --seconds S        begin no round after so long\n"
    "  --slice-us N       length of a slice (default 3000)\n"
    "  --cpus A,B         of the writer and of the readers (default 0,1)\n"
    "  --list             only say what there is\n";

struct Options {
    ipcbus::bench::StageOptions stage;
    std::string json;
    bool list = false;
};

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, ',');) {
        parts.push_back(part);
    }
    return parts;
}

enum Long {
    kBuild = 1,
    kDirectory,
    kJson,
    kOnly,
    kPeers,
    kSlices,
    kSeconds,
    kSliceUs,
    kCpus,
    kList
};

bool parse(int argc, char** argv, Options& options) {
    static const option kLong[] = {{"build-dir", required_argument, nullptr, kBuild},
                                   {"directory", required_argument, nullptr, kDirectory},
                                   {"json", required_argument, nullptr, kJson},
                                   {"only", required_argument, nullptr, kOnly},
                                   {"peers", required_argument, nullptr, kPeers},
                                   {"slices", required_argument, nullptr, kSlices},
                                   {"seconds", required_argument, nullptr, kSeconds},
                                   {"slice-us", required_argument, nullptr, kSliceUs},
                                   {"cpus", required_argument, nullptr, kCpus},
                                   {"list", no_argument, nullptr, kList},
                                   {nullptr, 0, nullptr, 0}};
    auto& stage = options.stage;
    for (int found = 0; (found = ::getopt_long(argc, argv, "", kLong, nullptr)) != -1;) {
        switch (found) {
        case kBuild:
            stage.build_directory = optarg;
            break;
        case kDirectory:
            stage.directory = optarg;
            break;
        case kJson:
            options.json = optarg;
            break;
        case kOnly:
            stage.workloads = split(optarg);
            break;
        case kPeers:
            stage.peers = split(optarg);
            break;
        case kSlices:
            stage.rounds = static_cast<unsigned>(std::atoi(optarg));
            break;
        case kSeconds:
            stage.seconds_max = std::atof(optarg);
            break;
        case kSliceUs:
            stage.slice_ns = std::atoll(optarg) * 1000;
            break;
        case kCpus:
            if (std::sscanf(optarg, "%d,%d", &stage.cpu_a, &stage.cpu_b) != 2) {
                return false;
            }
            break;
        case kList:
            options.list = true;
            break;
        default:
            return false;
        }
    }
    return optind == argc && !stage.directory.empty() && !stage.build_directory.empty();
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    if (!parse(argc, argv, options)) {
        std::fputs(kHelp, stderr);
        return 2;
    }
    rlimit descriptors{};  // 1,000 rings take as many; the daemon inherits it
    if (::getrlimit(RLIMIT_NOFILE, &descriptors) == 0) {
        descriptors.rlim_cur = descriptors.rlim_max;
        (void)::setrlimit(RLIMIT_NOFILE, &descriptors);
    }
    ipcbus::bench::Stage stage(options.stage);
    stage.build();
    if (options.list) {
        for (const auto& task : stage.tasks()) {
            std::printf("%-24s %s\n", task->workload.c_str(), task->peer.c_str());
        }
        return 0;
    }
    stage.run();
    std::FILE* file = options.json.empty() ? stdout : std::fopen(options.json.c_str(), "we");
    if (file == nullptr) {
        std::fprintf(stderr, "compare_run: cannot write %s\n", options.json.c_str());
        return 1;
    }
    stage.write_json(file);
    return std::fclose(file) == 0 ? 0 : 1;
}
