package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKEKsAreKeptOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		found, err := f.HasKEK(t.Context(), "kek-1")
		require.NoError(t, err)
		require.False(t, found)
		for _, err := range together(16, func(int) error { return f.AddKEKs(t.Context(), []string{"kek-1", "kek-2"}) }) {
			require.NoError(t, err)
		}
		require.NoError(t, f.AddKEKs(t.Context(), []string{"kek-2", "kek-3"}))
		require.Equal(t, 3, f.count("keks"))
		for id, want := range map[string]bool{"kek-1": true, "kek-2": true, "kek-3": true, "kek": false, "": false} {
			found, err = f.HasKEK(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, want, found, id)
		}
	})
}
