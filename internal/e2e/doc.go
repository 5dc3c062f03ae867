// Package e2e holds the end-to-end tests: model files of every kind and architecture are imported, compressed, loaded and run,
// and the logits must equal those of the reference implementation in internal/testmodel.
package e2e
