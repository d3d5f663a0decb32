package main

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// forbidden are the packages that the program which holds the key-encryption keys must not link: database drivers, the ORM, and
// the code of sessions. Package database/sql itself comes with the metrics, and does nothing without a driver.
var forbidden = regexp.MustCompile(`gorm|jackc/|sqlite|lib/pq|go-oidc|golang-jwt|go-jose` +
	`|^github\.com/agentrouter/aikeys/(models|impl/(auth|feed|aikeys|dataplane))(/|$)`)

func TestNoDatabaseIsLinked(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	packages := strings.Fields(string(out))
	require.Contains(t, packages, "github.com/agentrouter/aikeys/impl/secrets")
	for _, linked := range packages {
		require.False(t, forbidden.MatchString(linked), linked)
	}
	for _, example := range []string{
		"gorm.io/gorm", "github.com/jackc/pgx/v5", "modernc.org/sqlite", "github.com/agentrouter/aikeys/models",
		"github.com/agentrouter/aikeys/impl/auth", "github.com/agentrouter/aikeys/impl/feed",
	} {
		require.True(t, forbidden.MatchString(example), example)
	}
}
