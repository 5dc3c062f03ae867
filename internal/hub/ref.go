// Package hub fetches models from the Hugging Face hub, or a server with the same interface: it lists a repository's files,
// chooses those that make one model, and downloads them in parallel ranges with resumption and checksums.
package hub

import (
	"fmt"
	"regexp"
	"strings"
)

// A Ref names a model on a hub.
type Ref struct {
	Repo string // ORG/NAME
	Want string // a file, or a quantization as in its name ("Q4_K_M"); empty: the usual choice
}

var part = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$`)

// hosts are prefixes that people paste.
var hosts = []string{"https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/", "hf:"}

// IsRef reports whether a name has the form of a model on a hub rather than of a local one.
func IsRef(name string) bool {
	_, err := ParseRef(name)
	return err == nil
}

// ParseRef reads ORG/NAME[:FILE or quantization], with or without the hub's host in front.
func ParseRef(name string) (Ref, error) {
	rest := name
	for _, h := range hosts {
		if cut, ok := strings.CutPrefix(rest, h); ok {
			rest = cut
			break
		}
	}
	repo, want, tagged := strings.Cut(strings.TrimSuffix(rest, "/"), ":")
	org, model, two := strings.Cut(repo, "/")
	if !two || !part.MatchString(org) || !part.MatchString(model) || strings.Contains(repo, "..") || tagged && want == "" {
		return Ref{}, fmt.Errorf("%q is not the name of a model on a hub: expected ORG/NAME or ORG/NAME:FILE, for example "+
			"Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M", name)
	}
	return Ref{repo, want}, nil
}

func (r Ref) String() string {
	if r.Want == "" {
		return r.Repo
	}
	return r.Repo + ":" + r.Want
}
