// Package convert turns models of other programs (internal/source) into .ellm containers and back.
package convert
