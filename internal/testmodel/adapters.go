package testmodel

import (
	"embed"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
)

//go:embed adapters
var adapters embed.FS

// Adapter is a LoRA adapter for a family's model that adapters.py made with PEFT, with the logits of the merged model.
type Adapter struct {
	Config json.RawMessage `json:"config"`
	Family
	FamilyResult
}

// ReadAdapter returns the adapter for a family.
func ReadAdapter(family string) (*Adapter, error) {
	b, err := adapters.ReadFile(path.Join("adapters", family+".json"))
	if err != nil {
		return nil, fmt.Errorf("testmodel: %w", err)
	}
	a := &Adapter{}
	if err := json.Unmarshal(b, a); err != nil {
		return nil, fmt.Errorf("testmodel: adapter of %s: %w", family, err)
	}
	return a, nil
}

// Write stores the adapter as a directory below dir and returns its path.
func (a *Adapter) Write(dir string) (string, error) {
	to := filepath.Join(dir, "adapter")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return "", fmt.Errorf("testmodel: %w", err)
	}
	if err := os.WriteFile(filepath.Join(to, "adapter_config.json"), a.Config, 0o644); err != nil {
		return "", fmt.Errorf("testmodel: %w", err)
	}
	return to, a.writeSafetensors(filepath.Join(to, "adapter_model.safetensors"))
}
