//go:build linux

package secret

import (
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestClearedMemory(t *testing.T) {
	t.Parallel()
	memory, err := os.Open("/proc/self/mem")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, memory.Close()) })
	read := func(address uintptr, length int) string {
		at := make([]byte, length)
		_, err := memory.ReadAt(at, int64(address))
		require.NoError(t, err)
		return string(at)
	}
	for name, text := range map[string]string{"long": strings.Repeat("sk-EXAMPLE-", 20), "short": "sk-EX", "escaped": `sk"EXAMPLE\é`} {
		t.Run(name, func(t *testing.T) {
			wire, err := json.Marshal(text)
			require.NoError(t, err)
			var s Text
			require.NoError(t, json.Unmarshal(wire, &s))
			clear(wire)
			address := uintptr(unsafe.Pointer(unsafe.StringData(s.Reveal())))
			part := s.Reveal()[1:]
			s = Text{}
			runtime.GC()
			require.Equal(t, text, read(address, len(text)), "a part of it is in use")
			require.Equal(t, text[1:], part)
			runtime.KeepAlive(part)
			require.Eventually(t, func() bool {
				runtime.GC()
				return read(address, len(text)) != text
			}, 10*time.Second, time.Millisecond)
		})
	}
}

func TestClearedJoinsParts(t *testing.T) {
	t.Parallel()
	require.Equal(t, "Bearer sk-EXAMPLE", Cleared("Bearer ", "sk-EXAMPLE"))
	require.Equal(t, "sk-EXAMPLE", Cleared([]byte("sk-EXAMPLE")))
	require.Empty(t, Cleared[string]())
}

func TestSecretsInJSON(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "sk-EXAMPLE", `a "quote"`, "line\nend", "é", "\u2028", `\`} {
		wire, err := json.Marshal(New(text))
		require.NoError(t, err)
		var got Text
		require.NoError(t, json.Unmarshal(wire, &got))
		require.Equal(t, text, got.Reveal())
	}
	for _, wire := range []string{`1`, `["a"]`, `{}`, `true`} {
		require.Error(t, json.Unmarshal([]byte(wire), new(Text)), wire)
	}
}
