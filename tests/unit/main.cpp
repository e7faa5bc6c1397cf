// SPDX-License-Identifier: Apache-2.0
// The entry point of `unit_tests` and of `integration_tests`, which hold all tests of their kind.
// `unit_tests --source-file='*/mapping_test.cpp'` runs those of one file, as Meson does.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
