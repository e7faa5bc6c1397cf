// SPDX-License-Identifier: Apache-2.0
// The example of README.md, word for word from the first #include on: readme_example.sh compares
// the two, and runs this against a bus of its own. One process, one thread.

#include <ipcbus/ipcbus.hpp>
#include <cstdio>

int main() {
    ipcbus::Bus bus;  // $IPCBUS_ADDRESS, or where the bus usually is
    ipcbus::Subscriber readings = bus.subscribe("plant/+/temp");
    ipcbus::Publisher temperature = bus.advertise("plant/7/temp");
    if (!ok(temperature.publish("21.5"))) {
        return 1;
    }
    ipcbus::Loan loan;  // where the message lies in the ring: nothing is copied
    while (ok(readings.borrow(loan, std::chrono::seconds(1)))) {
        const auto text = ipcbus::text(loan.message());
        std::printf("%s: %.*s\n", loan.message().topic, int(text.size()), text.data());
    }
}
