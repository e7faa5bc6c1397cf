// SPDX-License-Identifier: Apache-2.0
// Options of the programs of the torture: a table of numbers and flags, --help, and the errors.
// Used once, by main.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace ipcbus::torture {

/// One option: "--seed N" sets `number`, "--list" sets `flag`, "--operation NAME" sets `text`.
struct Option {
    const char* name;  ///< "--seed"
    std::uint64_t* number = nullptr;
    bool* flag = nullptr;
    std::string* text = nullptr;
    bool* given = nullptr;  ///< set, if it is there
};

/// Reads argv. Exits: 0 after --help, which prints `usage`; 2 after an error.
void read_options(int argc, char** argv, std::span<const Option> options, const char* usage);

}  // namespace ipcbus::torture
