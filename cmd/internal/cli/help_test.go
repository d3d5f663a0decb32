package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWrapText(t *testing.T) {
	text := `Registers a key, and
shows it.

A list:

  NAME       what it is, in more words than fit on
             one line
  10  …      a number
  no name here but many words nevertheless

The end.`
	require.Equal(t, `Registers a key, and shows it.

A list:

  NAME       what it is, in more
             words than fit on
             one line
  10  …      a number
  no name here but many words
    nevertheless

The end.`, wrapText(text, 32))
	require.Equal(t, wrapText(text, 32), wrapText(wrapText(text, 32), 32))
	require.Equal(t, "averyverylongword\nthat stays", wrapText("averyverylongword that stays", 10))
	require.Empty(t, wrapText("", 80))
}

func FuzzWrapText(f *testing.F) {
	f.Add("  NAME  text that goes on\n        and on\n\nmore", 20)
	f.Fuzz(func(t *testing.T, text string, width int) {
		width = min(max(width, minHelpWidth), maxHelpWidth)
		require.Equal(t, strings.Fields(text), strings.Fields(wrapText(text, width)))
	})
}
