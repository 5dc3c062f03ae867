package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130 // as a shell reports a program ended by Ctrl-C
)

// usageError is a mistake in the command line.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{msg: fmt.Sprintf(format, args...)}
}

// exitCode maps the error of a command to the program's exit code.
func exitCode(err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailure
}

// explain returns the line that the user sees for err, with advice where the system's own words give none.
func explain(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, syscall.ENOSPC):
		return err.Error() + " (free some space, or write to another disk with -o)"
	case errors.Is(err, syscall.EBADF):
		return err.Error() + " (is standard output closed?)"
	case errors.Is(err, fs.ErrPermission):
		return err.Error() + " (check the owner and mode of the file and of its directory)"
	case errors.Is(err, syscall.ENOMEM):
		return err.Error() + " (close other programs, or use --plan fused or a smaller --ctx)"
	}
	return err.Error()
}
