package aikeys

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

// A guess of the secret can't be confirmed with the database alone: the fingerprint needs the Idempotency-Key, and only
// its hash is stored.
func TestFingerprintsNeedTheIdempotencyKey(t *testing.T) {
	key := models.Key{ID: "byok_1", Provider: "openai", Name: "n", UserID: "alice"}
	const secret = "sk-proj-EXAMPLE"
	for name, idempotencyKey := range map[string]string{
		"as long as a UUID": strings.Repeat("k", 36), "longer than HMAC takes without hashing it": strings.Repeat("k", 255),
	} {
		t.Run(name, func(t *testing.T) {
			record := registrationRecord(&idempotencyKey, models.Caller{}, key, secret)
			require.Equal(t, record, registrationRecord(&idempotencyKey, models.Caller{}, key, secret), "a retry is recognized")
			require.NotEqual(t, record.Fingerprint, registrationRecord(new(idempotencyKey+"2"), models.Caller{}, key, secret).Fingerprint)
			require.NotEqual(t, record.Fingerprint, registrationRecord(&idempotencyKey, models.Caller{}, key, secret+"2").Fingerprint)
			for _, known := range [][]byte{nil, record.KeyHash, []byte("aikeys/v1/fingerprint:" + string(record.KeyHash))} {
				mac := hmac.New(sha256.New, known)
				for _, part := range []string{key.Provider, key.Name, key.UserID, secret} {
					require.NoError(t, binary.Write(mac, binary.BigEndian, uint64(len(part))))
					mac.Write([]byte(part))
				}
				require.NotEqual(t, record.Fingerprint, mac.Sum(nil))
			}
		})
	}
}
