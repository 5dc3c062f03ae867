package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNoticesAreCurrent(t *testing.T) {
	root := filepath.Join("..", "..")
	want, err := notices(root)
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(root, "THIRD_PARTY_NOTICES"))
	require.NoError(t, err)
	assert.Equal(t, want, string(got), "go.mod has changed: make notices")
}

func TestLicencesAreRecognized(t *testing.T) {
	for text, want := range map[string]string{
		"Apache License\n   Version 2.0, January 2004":                                  "Apache-2.0",
		"Permission is hereby granted, free of charge,\nto any person obtaining a copy": "MIT",
		"Redistribution and use in source and binary forms, ... Neither the name of":    "BSD-3-Clause",
		"Redistribution and use in source and binary forms, with or without":            "BSD-2-Clause",
		"GNU General Public License ... Permission is hereby granted, free of charge":   "",
		"All rights reserved.": "",
	} {
		assert.Equal(t, want, kindOf(text), text)
	}
}

func TestModuleWithoutALicenceIsRefused(t *testing.T) {
	_, err := licences(module{Path: "example.com/x", Dir: t.TempDir()})
	assert.ErrorContains(t, err, "example.com/x: there is no licence file")
}
