// SPDX-License-Identifier: Apache-2.0
// The entry point of `unit_tests`, the one program that holds all unit tests. A file a source
// stem, a test suite a file: `unit_tests --test-suite=mapping` runs one of them.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
