// SPDX-License-Identifier: Apache-2.0
// See options.hpp.
#include "options.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace ipcbus::torture {

namespace {

[[noreturn]] void refuse(const char* program, const std::string& fault) {
    (void)std::fprintf(stderr, "%s: %s (see --help)\n", program, fault.c_str());
    std::exit(2);
}

}  // namespace

void read_options(int argc, char** argv, std::span<const Option> options, const char* usage) {
    for (int i = 1; i < argc; i++) {
        const std::string_view word = argv[i];
        if (word == "-h" || word == "--help") {
            (void)std::fputs(usage, stdout);
            std::exit(0);
        }
        const auto option = std::find_if(options.begin(), options.end(),
                                         [word](const Option& one) { return word == one.name; });
        if (option == options.end()) {
            refuse(argv[0], "unknown option: " + std::string(word));
        }
        if (option->given != nullptr) {
            *option->given = true;
        }
        if (option->flag != nullptr) {
            *option->flag = true;
            continue;
        }
        if (++i == argc) {
            refuse(argv[0], std::string(word) + " needs a value");
        }
        if (option->text != nullptr) {
            *option->text = argv[i];
            continue;
        }
        char* end = nullptr;
        *option->number = std::strtoull(argv[i], &end, 0);
        if (end == argv[i] || *end != '\0') {
            refuse(argv[0], std::string(word) + ": not a number: " + argv[i]);
        }
    }
}

}  // namespace ipcbus::torture
