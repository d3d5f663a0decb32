package secretstest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestClientKeepsTheSealerContract(t *testing.T) {
	sealertest.Run(t, func(t *testing.T) sealer.Sealer {
		return secretstest.Client(t, secretstest.Serve(t, sealertest.New(t)))
	})
}

func TestClientKeepsTheContractOverAKEKChange(t *testing.T) {
	sealertest.RunRotation(t, func(t *testing.T) (before, after sealer.Sealer) {
		path, copied := filepath.Join(t.TempDir(), "keyset.json"), filepath.Join(t.TempDir(), "keyset.json")
		_, err := local.AddKEK(path)
		require.NoError(t, err)
		keyset, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(copied, keyset, 0o600))
		next, err := local.AddKEK(copied)
		require.NoError(t, err)
		require.NoError(t, local.SetPrimary(copied, next))
		clients := make([]sealer.Sealer, 0, 2)
		for _, keyset := range []string{path, copied} {
			backend, err := local.Open(keyset)
			require.NoError(t, err)
			clients = append(clients, secretstest.Client(t, secretstest.Serve(t, backend)))
		}
		return clients[0], clients[1]
	})
}
