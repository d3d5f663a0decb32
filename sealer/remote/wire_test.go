package remote

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
)

func TestSealBody(t *testing.T) {
	binding := sealer.Binding{CustomerID: `ac"me`, ProjectID: "p", KeyID: "k", Provider: "openai", Version: 1}
	b, err := newSealBody(binding, sealer.NewSecret([]byte("sk-canary")))
	require.NoError(t, err)
	text, err := io.ReadAll(b.reader())
	require.NoError(t, err)
	require.JSONEq(t, `{"binding":{"customer_id":"ac\"me","project_id":"p","key_id":"k","provider":"openai","version":1},"secret":"c2stY2FuYXJ5"}`, string(text))
	require.EqualValues(t, len(text), b.size)
	require.Equal(t, len(b.text), cap(b.text), "it never grew")

	text, reader := b.text, b.reader()
	_, err = reader.Read(make([]byte, 5))
	require.NoError(t, err)
	b.wipe()
	require.Equal(t, make([]byte, len(text)), text)
	_, err = reader.Read(make([]byte, 5))
	require.ErrorIs(t, err, errWiped)
	_, err = io.ReadAll(b.reader())
	require.ErrorIs(t, err, errWiped)
	b.wipe()
}

func TestParseSecret(t *testing.T) {
	answer := []byte(`{"secret":"c2stY2FuYXJ5"}`)
	secret, err := parseSecret(answer)
	require.NoError(t, err)
	clear(answer)
	require.True(t, bytes.Equal([]byte("sk-canary"), secret.Reveal()))
}
