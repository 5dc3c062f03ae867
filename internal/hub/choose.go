package hub

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// preferred is the order in which a quantization is taken when none was asked for: llama.cpp's default, then what is nearest to
// it.
var preferred = []string{"Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "IQ4_XS", "IQ4_NL", "Q5_K_M", "Q5_K_S", "Q5_0", "Q5_1", "Q6_K",
	"Q8_0",
	"Q3_K_L", "Q3_K_M", "Q3_K_S", "BF16", "F16", "F32", "Q2_K"}

var (
	splitName = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)
	quantName = regexp.MustCompile(`(?i)(?:^|[-._])((?:UD-)?(?:I?Q\d[A-Z0-9_]*|MXFP4[A-Z0-9_]*|BF16|F16|FP16|F32))(?:[-._]|$)`)
)

// A Choice is the files that make one model.
type Choice struct {
	Files []File
	// Name tells the model apart from others of its repository: its quantization, its file name without suffix, or "safetensors".
	Name string
	// Main is what to open: the (first) GGUF file; empty for a directory of safetensors.
	Main string
}

// Size returns the bytes to download.
func (c *Choice) Size() int64 {
	var n int64
	for _, f := range c.Files {
		n += f.Size
	}
	return n
}

// Choose returns the files of the model that want names: a file, a quantization, or "" for the usual choice.
func Choose(l *Listing, want string) (*Choice, error) {
	models := ggufModels(l.Files)
	if strings.HasSuffix(want, ".gguf") {
		for _, m := range models {
			if slices.ContainsFunc(m.Files, func(f File) bool { return f.Path == want }) {
				return whole(m)
			}
		}
		return nil, fmt.Errorf("%s has no file %q%s", l.Repo, want, available(models))
	}
	tensors := safetensors(l.Files)
	switch {
	case strings.EqualFold(want, "safetensors") && tensors != nil:
		return tensors, nil
	case want != "":
		for _, m := range models {
			if strings.EqualFold(m.Name, want) {
				return whole(m)
			}
		}
		return nil, fmt.Errorf("%s has no file of quantization %q%s", l.Repo, want, available(models))
	}
	for _, p := range preferred {
		for _, m := range models {
			if strings.EqualFold(m.Name, p) {
				return whole(m)
			}
		}
	}
	switch {
	case len(models) > 0:
		return whole(models[0])
	case tensors != nil:
		return tensors, nil
	}
	return nil, fmt.Errorf("%s has neither GGUF nor safetensors files", l.Repo)
}

func available(models []*Choice) string {
	var names []string
	for _, m := range models {
		names = append(names, m.Name)
	}
	if len(names) == 0 {
		return "; it has no GGUF files"
	}
	return "; it has " + strings.Join(names, ", ")
}

// ggufModels groups GGUF files into models, the parts of split ones together.
func ggufModels(files []File) []*Choice {
	var out []*Choice
	byStem := map[string]*Choice{}
	for _, f := range files {
		if !strings.HasSuffix(f.Path, ".gguf") || strings.HasPrefix(strings.ToLower(path.Base(f.Path)), "mmproj") {
			continue
		}
		stem := strings.TrimSuffix(f.Path, ".gguf")
		if m := splitName.FindStringSubmatch(f.Path); m != nil {
			stem = m[1]
		}
		c := byStem[stem]
		if c == nil {
			c = &Choice{Name: path.Base(stem), Main: f.Path}
			if q := quantName.FindStringSubmatch(path.Base(stem)); q != nil {
				c.Name = strings.ToUpper(q[1])
			}
			byStem[stem] = c
			out = append(out, c)
		}
		c.Files = append(c.Files, f)
		c.Main = min(c.Main, f.Path)
	}
	return out
}

// whole checks that no part of a split model is missing.
func whole(c *Choice) (*Choice, error) {
	slices.SortFunc(c.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	m := splitName.FindStringSubmatch(c.Main)
	if m == nil {
		return c, nil
	}
	for i, f := range c.Files {
		if s := splitName.FindStringSubmatch(f.Path); s == nil || s[2] != fmt.Sprintf("%05d", i+1) || s[3] != m[3] {
			return nil, fmt.Errorf("part %d of %s of %s is missing in the repository", i+1, strings.TrimLeft(m[3], "0"), c.Name)
		}
	}
	if fmt.Sprintf("%05d", len(c.Files)) != m[3] {
		return nil, fmt.Errorf("%s has %d of its %s parts in the repository", c.Name, len(c.Files), m[3])
	}
	return c, nil
}

// safetensors returns the files at the top of a repository that make a model in Hugging Face's form; nil if there are none.
func safetensors(files []File) *Choice {
	c := &Choice{Name: "safetensors"}
	weights, config := false, false
	for _, f := range files {
		if strings.Contains(f.Path, "/") || strings.HasPrefix(f.Path, "consolidated") {
			continue
		}
		switch path.Ext(f.Path) {
		case ".safetensors":
			weights = true
		case ".json", ".jinja":
			config = config || f.Path == "config.json"
		case ".model":
		default:
			continue
		}
		c.Files = append(c.Files, f)
	}
	if !weights || !config {
		return nil
	}
	return c
}
