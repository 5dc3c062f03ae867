// ellm-emu: executes the project's CUDA kernels on the CPU, on behalf of another process.
//
//   ellm-emu --memory FILE --size BYTES --base HEXADDR [--threads N]
//
// FILE is the device memory, shared with the other process; a device pointer is HEXADDR + offset.
// Commands come line by line on standard input, each is answered by one line, "ok…" or "error MESSAGE":
//
//   alloc PTR SIZE      allow kernels to touch [PTR, PTR + SIZE); PTR hexadecimal, 16-byte aligned
//   free PTR            forbid it again
//   kernels             → ok name:nargs name:nargs …
//   launch NAME gx gy gz bx by bz shared n a0 … a(n−1)     arguments in hexadecimal, 64 bits each; runs to the end
//   quit
#include "runtime.h"
#include <iostream>
#include <signal.h>
#include <sstream>
#include <stdio.h>
#include <stdlib.h>
#include <thread>
#include <unistd.h>

namespace {

void on_fault(int, siginfo_t* info, void*) {
    char s[512];
    int n = snprintf(s, sizeof s, "error %s: invalid access at address %p; the emulator ends\n", emu::where().c_str(),
        info->si_addr);
    if (write(STDOUT_FILENO, s, (size_t)n) < 0) _exit(2);
    _exit(1);
}

std::string run_launch(std::istringstream& in, emu::Machine& machine) {
    std::string name;
    emu::Launch l = {};
    uint32_t n = 0;
    in >> name >> l.grid.x >> l.grid.y >> l.grid.z >> l.block.x >> l.block.y >> l.block.z >> l.shared_bytes >> n;
    if (!in || n > 64) return "launch: expected NAME gx gy gz bx by bz shared n a0 …";
    for (int i = 0; i < emu::n_kernels; i++)
        if (name == emu::kernels[i].name) l.kernel = &emu::kernels[i];
    if (!l.kernel) return "launch: no kernel named " + name;
    std::vector<uint64_t> args(n);
    in >> std::hex;
    for (uint64_t& a : args) in >> a;
    if (!in || (int)n != l.kernel->n_args) return "launch: kernel " + name + " takes " + std::to_string(l.kernel->n_args)
        + " arguments";
    l.args = args.data();
    return machine.launch(l);
}

std::string list_kernels() {
    std::string s = "ok";
    for (int i = 0; i < emu::n_kernels; i++) s += std::string(" ")
        + emu::kernels[i].name + ":" + std::to_string(emu::kernels[i].n_args);
    return s;
}

std::string answer(const std::string& line, emu::Machine& machine) {
    std::istringstream in(line);
    std::string command, error;
    uint64_t ptr = 0, size = 0;
    in >> command;
    if (command == "kernels") return list_kernels();
    if (command == "launch") {
        error = run_launch(in, machine);
    } else if (command == "alloc") {
        in >> std::hex >> ptr >> std::dec >> size;
        error = in ? emu::arena_alloc(ptr, size) : "alloc: expected PTR SIZE";
    } else if (command == "free") {
        in >> std::hex >> ptr;
        error = in ? emu::arena_free(ptr) : "free: expected PTR";
    } else {
        error = "unknown command " + command;
    }
    return error.empty() ? "ok" : "error " + error;
}

} // namespace

int main(int argc, char** argv) {
    std::string path, error;
    uint64_t size = 0, base = 0;
    int n_threads = (int)std::max(1u, std::thread::hardware_concurrency());
    for (int i = 1; i + 1 < argc; i += 2) {
        std::string flag = argv[i];
        if (flag == "--memory") path = argv[i + 1];
        if (flag == "--size") size = strtoull(argv[i + 1], nullptr, 10);
        if (flag == "--base") base = strtoull(argv[i + 1], nullptr, 16);
        if (flag == "--threads") n_threads = std::max(1, atoi(argv[i + 1]));
    }
    if (path.empty() || !size || !base) {
        fprintf(stderr, "usage: ellm-emu --memory FILE --size BYTES --base HEXADDR [--threads N]\n");
        return 2;
    }
    if (!(error = emu::map_arena(path.c_str(), size, base)).empty()) {
        fprintf(stderr, "ellm-emu: %s\n", error.c_str());
        return 1;
    }
    struct sigaction fault = {};
    fault.sa_sigaction = on_fault;
    fault.sa_flags = SA_SIGINFO | SA_RESETHAND;
    sigaction(SIGSEGV, &fault, nullptr);
    sigaction(SIGBUS, &fault, nullptr);
    // Ctrl-C reaches the parent, too, which decides what it means; the end of standard input ends this program
    signal(SIGINT, SIG_IGN);
    emu::Machine machine(n_threads);
    for (std::string line; std::getline(std::cin, line) && line != "quit";) std::cout << answer(line, machine) << std::endl;
}
