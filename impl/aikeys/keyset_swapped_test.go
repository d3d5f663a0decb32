package aikeys_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/sealer"
)

// swapped is a sealer in whose place another one may be put.
type swapped struct{ sealer.Sealer }

// A keyset that is put in another's place while the service runs would seal keys that are lost once the right one is back.
func TestSealingAfterTheKeysetWasReplaced(t *testing.T) {
	right, wrong := secretstest.Backend(t), secretstest.Backend(t)
	backend := &swapped{right}
	s := aikeystest.Start(t, aikeystest.Options{Sealer: backend})
	register := func(name string) int {
		return post(t, s, owner, project+"/aikeys", map[string]string{"provider": "openai", "name": name,
			"secret": "sk-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"}).Status
	}
	require.Equal(t, http.StatusCreated, register("before"))
	backend.Sealer = wrong
	require.Equal(t, http.StatusServiceUnavailable, register("meanwhile"))
	backend.Sealer = right
	require.Equal(t, http.StatusCreated, register("after"))
	require.Len(t, list(t, s, owner), 2)
}
