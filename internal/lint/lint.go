// Package lint holds the tests of what compilers and staticcheck do not look at: line widths and retired words.
package lint
