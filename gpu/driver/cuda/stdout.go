//go:build cuda && linux

package cuda

/*
#include <fcntl.h>
#include <unistd.h>

// The Go runtime opens /dev/null for standard output that is closed, so that results would vanish: this opens it for reading
// before, and writes fail. Programs without cgo have cli/ellm-gpu/entry_linux_*.s for it.
__attribute__((constructor)) static void keep_closed_stdout(void) {
	if (fcntl(1, F_GETFD) >= 0) return;
	int f = open("/dev/null", O_RDONLY);
	if (f != 1 && f >= 0) dup2(f, 1);
}
*/
import "C"
