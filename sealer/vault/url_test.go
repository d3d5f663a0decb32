package vault_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer/vault"
)

func TestParseURL(t *testing.T) {
	const jwt = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	for text, want := range map[string]vault.Config{
		"vault+https://bao.internal:8200/transit/aikeys?token_file=/run/token": {
			Address: "https://bao.internal:8200", Mount: "transit", Key: "aikeys", TokenFile: "/run/token", AuthMount: "approle"},
		"vault+https://bao.internal/teams/keys/aikeys?role_id=r&secret_id_file=/s&namespace=/a/b/&ca=/ca.pem&cert=/c.pem&key=/k.pem": {
			Address: "https://bao.internal", Mount: "teams/keys", Key: "aikeys", RoleID: "r", SecretIDFile: "/s", AuthMount: "approle",
			Namespace: "a/b", CAFile: "/ca.pem", CertFile: "/c.pem", KeyFile: "/k.pem"},
		"vault+https://bao.internal/transit/aikeys?kubernetes_role=aikeys": {
			Address: "https://bao.internal", Mount: "transit", Key: "aikeys", KubernetesRole: "aikeys", JWTFile: jwt, AuthMount: "kubernetes"},
		"vault+http://127.0.0.1:8100/transit/aikeys?token_file=/t": {
			Address: "http://127.0.0.1:8100", Mount: "transit", Key: "aikeys", TokenFile: "/t", AuthMount: "approle"},
	} {
		got, err := vault.ParseURL(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, says := range map[string]string{
		"":                                                                  "must be vault+https://",
		"vault+https:///transit/k":                                          "must be vault+https://",
		"vault+https://h":                                                   "must be vault+https://",
		"vault+https://h/k?token_file=/t":                                   "names no key",
		"vault+https://h/t/k":                                               "needs one way to log in",
		"vault+https://u:p@h/t/k":                                           "must be vault+https://",
		"vault+https://h/t/k#f":                                             "must be vault+https://",
		"vault+https://h/t/..?token_file=/t":                                "must be vault+https://",
		"vault+https://h/t/%2e%2e/k?token_file=/t":                          "must be vault+https://",
		"vault+https://h/t//k?token_file=/t":                                "must be vault+https://",
		"vault+http://bao.internal/t/k?token_file=/t":                       "is for 127.0.0.1 and ::1 alone",
		"vault+http://localhost/t/k?token_file=/t":                          "is for 127.0.0.1 and ::1 alone",
		"https://h/t/k?token_file=/t":                                       "must be vault+https://",
		"vault+https://h/t/k?token=hvs.secret":                              `has the parameter "token"`,
		"vault+https://h/t/k?token_file=":                                   "without a value",
		"vault+https://h/t/k?token_file=/t&token_file=/u":                   "or twice",
		"vault+https://h/t/k?token_file=/t&kubernetes_role=r":               "needs one way to log in",
		"vault+https://h/t/k?role_id=r":                                     "needs both role_id and secret_id_file",
		"vault+https://h/t/k?jwt_file=/j":                                   "needs kubernetes_role",
		"vault+https://h/t/k?token_file=/t&auth_mount=a":                    "which a token file does not need",
		"vault+https://h/t/k?token_file=/t&cert=/c":                         "needs both cert and key",
		"vault+https://h/t/k?token_file=/t&namespace=../x":                  "not a path of plain names",
		"vault+https://h/t/k?token_file=/t&a=%zz":                           "must be vault+https://",
		"vault+https://h/t/" + string(make([]byte, 300)):                    "must be vault+https://",
		"vault+https://h/t/k" + strings.Repeat("k", 260) + "?token_file=/t": "at most 255 fit",
	} {
		_, err := vault.ParseURL(text)
		require.ErrorContains(t, err, says, text)
		require.NotContains(t, err.Error(), "hvs.secret")
	}
}
