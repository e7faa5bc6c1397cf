// SPDX-License-Identifier: Apache-2.0
// The entry point of `unit_tests`, `integration_tests`, `fault_tests` and others, each of which
// holds all tests of its kind: `unit_tests --source-file='*/mapping_test.cpp'` runs those of one
// file, as Meson does.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
