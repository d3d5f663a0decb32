package models_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
)

func TestNoErrorHoldsTheDatabasesPassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"postgres://user:CANARY@127.0.0.1:1/db",
		"postgres://user:CANARY@127.0.0.1:1,127.0.0.1:2/db?sslmode=disable",
		"postgresql://user@127.0.0.1:1/db?password=CANARY",
		"postgres://user:CANARY@no-such-host.invalid/db",
		"postgres://user:CANARY@127.0.0.1:port/db",
		"postgres://user:CANARY@[::1/db",
		"postgres://user:CANARY@127.0.0.1:1/db?sslmode=maybe",
		"postgres://user:CANARY@127.0.0.1:1/db?pool_max_conns=CANARY",
		"postgres://user:12/CANARY@127.0.0.1:1/db",
		"postgres://user:CANARY/34@127.0.0.1:1/db",
		"postgres://user:12?CANARY@127.0.0.1:1/db",
		"postgres://user:CANARY%zz@127.0.0.1:1/db",
		"postgres:user:CANARY@127.0.0.1:1/db",
		"mysql://user:CANARY@127.0.0.1:1/db",
		"user=user password=CANARY host=127.0.0.1",
		"CANARY",
	} {
		t.Run(url, func(t *testing.T) {
			store, err := database.Open(url, models.Options{Timeout: time.Second})
			if err == nil {
				defer func() { require.NoError(t, store.Close()) }()
				err = store.Ping(t.Context())
				require.ErrorIs(t, err, models.ErrUnavailable)
			}
			for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
				require.NotContains(t, fmt.Sprintf(verb, err), "CANARY")
			}
		})
	}
}
