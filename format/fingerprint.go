package format

import (
	"crypto/sha256"
	"encoding/hex"
)

// Fingerprint identifies the file's content: a digest of its section table, which holds every section's place and checksum.
func (r *Reader) Fingerprint() string {
	h := sha256.New()
	b := make([]byte, recordSize)
	for i := range r.sections {
		clear(b)
		r.sections[i].encode(b)
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
