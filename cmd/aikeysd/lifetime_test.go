package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLifetimes(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "720h": 720 * time.Hour, "1h30m": 90 * time.Minute, "30d": 720 * time.Hour, "0d": 0,
	} {
		got, err := lifetime(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "d", "-1d", "-1h", "1.5d", "30", "1d12h", "65536d", "1y"} {
		_, err := lifetime(text)
		require.Error(t, err, text)
	}
}
