package aikeys_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// What needs no secret asks for none: a key whose envelope is damaged is listed, read, resolved and revoked like any other.
func TestUnreadableKey(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store := modelstest.NewStore(t, e)
		s := aikeystest.Start(t, aikeystest.Options{Store: store})
		var created []string
		for _, name := range []string{"damaged", "sound"} {
			reply := post(t, s, owner, project+"/aikeys", map[string]string{"provider": "openai", "name": name,
				"secret": "sk-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"})
			require.Equal(t, http.StatusCreated, reply.Status, "%s", reply.Body)
			created = append(created, decode[gen.RegisterResponse](t, reply).Key.ID)
		}
		row, err := store.SealedKey(t.Context(), created[0])
		require.NoError(t, err)
		stored, err := store.Rewrap(t.Context(), []models.Rewrapping{
			{KeyID: row.ID, Version: row.Version, Old: row.Envelope, New: []byte("damaged"), KEKID: "local:00000000"}})
		require.NoError(t, err)
		require.Len(t, stored, 1)

		require.ElementsMatch(t, created, ids(list(t, s, owner)))
		require.Equal(t, http.StatusOK, get(t, s, owner, project+"/aikeys/"+created[0]).Status)
		require.Equal(t, http.StatusOK, get(t, s, owner, project+"/resolve?provider=openai").Status)
		require.Equal(t, http.StatusOK, del(t, s, owner, project+"/aikeys/"+created[0]).Status)
		require.ElementsMatch(t, created, ids(list(t, s, owner)))
	})
}
