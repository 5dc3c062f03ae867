//go:build !unix

package cli

import "os"

// nullSignal cannot be sent: processes that were found count as running.
var nullSignal = os.Interrupt
