package auth_test

import (
	"crypto/sha256"
	"hash/crc32"
	"math/big"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
)

var keyPattern = regexp.MustCompile(`^ak_([0-9A-HJKMNP-TV-Z]{26})_([0-9A-Za-z]{43})_([0-9A-Za-z]{6})$`)

func TestAPIKey(t *testing.T) {
	t.Run("its text has the documented form and its hash is of the secret part alone", func(t *testing.T) {
		text, id, hash, err := auth.MintAPIKey(time.Now())
		require.NoError(t, err)
		parts := keyPattern.FindStringSubmatch(text)
		require.NotNil(t, parts)
		require.Equal(t, id, parts[1])
		sum := sha256.Sum256([]byte(parts[2]))
		require.Equal(t, sum[:], hash)
	})
	t.Run("parsing gives back what was minted, with or without ak- before it", func(t *testing.T) {
		text, id, hash, err := auth.MintAPIKey(time.Now())
		require.NoError(t, err)
		for _, spelling := range []string{text, "ak-" + text} {
			gotID, gotHash, err := auth.ParseAPIKey(spelling)
			require.NoError(t, err)
			require.Equal(t, id, gotID)
			require.Equal(t, hash, gotHash[:])
		}
	})
	t.Run("no two are alike", func(t *testing.T) {
		now, ids, hashes := time.Now(), map[string]bool{}, map[string]bool{}
		for range 1000 {
			_, id, hash, err := auth.MintAPIKey(now)
			require.NoError(t, err)
			ids[id], hashes[string(hash)] = true, true
		}
		require.Len(t, ids, 1000)
		require.Len(t, hashes, 1000)
	})
	t.Run("a time that no ULID can hold is an error", func(t *testing.T) {
		_, _, _, err := auth.MintAPIKey(time.UnixMilli(1 << 50))
		require.Error(t, err)
	})
	t.Run("a token of another prefix is refused", func(t *testing.T) {
		text, id, _, err := auth.Mint("dp", time.Now())
		require.NoError(t, err)
		_, _, err = auth.ParseAPIKey(text)
		require.ErrorIs(t, err, auth.ErrUnauthenticated)
		_, _, err = auth.ParseAPIKey("ak" + text[2:])
		require.ErrorIs(t, err, auth.ErrUnauthenticated, "the checksum covers the prefix")
		got, _, err := auth.Parse("dp", text)
		require.NoError(t, err)
		require.Equal(t, id, got)
	})
	t.Run("a fixed key keeps its checksum", func(t *testing.T) {
		text := "ak_01ARZ3NDEKTSV4RRFFQ69G5FAV_" + strings.Repeat("0", 43) + "_4EdhZZ"
		id, _, err := auth.ParseAPIKey(text)
		require.NoError(t, err, "keys in the field must stay valid")
		require.Equal(t, "01ARZ3NDEKTSV4RRFFQ69G5FAV", id)
	})
}

func TestAPIKeyMistyped(t *testing.T) {
	text, _, _, err := auth.MintAPIKey(time.Now())
	require.NoError(t, err)
	for _, key := range []string{text, "ak-" + text} {
		for i := range key {
			for c := range 256 {
				if byte(c) == key[i] {
					continue
				}
				wrong := key[:i] + string([]byte{byte(c)}) + key[i+1:]
				if _, _, err := auth.ParseAPIKey(wrong); err == nil {
					t.Fatalf("accepted with character %d of %d changed to %q", i, len(key), byte(c))
				}
			}
		}
	}
}

func TestAPIKeyOfWrongShape(t *testing.T) {
	// withChecksum adds the right checksum, so that only the body can be refused.
	withChecksum := func(body string) string {
		digits := big.NewInt(int64(crc32.ChecksumIEEE([]byte(body)))).Text(62)
		return body + "_" + strings.Repeat("0", 6-len(digits)) + digits
	}
	text, _, _, err := auth.MintAPIKey(time.Now())
	require.NoError(t, err)
	parts := strings.Split(text, "_")
	id, secret := parts[1], parts[2]
	require.Equal(t, text, withChecksum("ak_"+id+"_"+secret))
	cases := map[string]string{
		"empty":                  "",
		"prefix alone":           "ak_",
		"no prefix":              text[3:],
		"prefix twice":           "ak-ak-" + text,
		"no checksum":            "ak_" + id + "_" + secret,
		"a part too many":        text + "_x",
		"truncated":              text[:len(text)-1],
		"trailing newline":       text + "\n",
		"leading space":          " " + text,
		"other separators":       withChecksum("ak_" + id + "-" + secret),
		"upper-case prefix":      withChecksum("AK_" + id + "_" + secret),
		"lower-case ULID":        withChecksum("ak_" + strings.ToLower(id) + "_" + secret),
		"ULID of other letters":  withChecksum("ak_" + id[:25] + "U_" + secret),
		"ULID past its time":     withChecksum("ak_8" + id[1:] + "_" + secret),
		"parts swapped":          withChecksum("ak_" + secret + "_" + id),
		"secret with a dash":     withChecksum("ak_" + id + "_" + secret[1:] + "-"),
		"secret with a NUL":      withChecksum("ak_" + id + "_" + secret[1:] + "\x00"),
		"secret with underscore": withChecksum("ak_" + id + "_" + secret[1:] + "_"),
		"short secret":           withChecksum("ak_" + id + "_" + secret[1:]),
	}
	for name, wrong := range cases {
		t.Run(name, func(t *testing.T) {
			id, hash, err := auth.ParseAPIKey(wrong)
			require.ErrorIs(t, err, auth.ErrUnauthenticated)
			require.Empty(t, id)
			require.Zero(t, hash)
			requireQuiet(t, err, wrong)
		})
	}
}

func TestAuthorizationHeader(t *testing.T) {
	store := newTokens()
	text, _ := store.Mint(t)
	other, _ := store.Mint(t)
	for name, header := range map[string]string{
		"as documented":    "Bearer " + text,
		"lower-case":       "bearer " + text,
		"upper-case":       "BEARER " + text,
		"two spaces":       "Bearer  " + text,
		"ak- before token": "Bearer ak-" + text,
	} {
		t.Run("accepted: "+name, func(t *testing.T) {
			_, err := auth.New(auth.Config{Tokens: store}).Authenticate(t.Context(), header)
			require.NoError(t, err)
		})
	}
	finds := store.finds.Load()
	for name, header := range map[string]string{
		"missing":              "",
		"scheme alone":         "Bearer",
		"no token":             "Bearer ",
		"spaces only":          "Bearer     ",
		"no scheme":            text,
		"no space":             "Bearer" + text,
		"tab for space":        "Bearer\t" + text,
		"space before":         " Bearer " + text,
		"Basic":                "Basic " + text,
		"Basic of bearer":      "Basic Bearer " + text,
		"longer scheme":        "BearerX " + text,
		"two tokens":           "Bearer " + text + " " + other,
		"two with comma":       "Bearer " + text + "," + other,
		"two headers joined":   "Bearer " + text + ", Bearer " + other,
		"trailing comma":       "Bearer " + text + ",",
		"trailing space":       "Bearer " + text + " ",
		"trailing NUL":         "Bearer " + text + "\x00",
		"trailing newline":     "Bearer " + text + "\r\n",
		"quoted":               `Bearer "` + text + `"`,
		"not UTF-8":            "Bearer \xff\xfe",
		"1 MB token":           "Bearer " + strings.Repeat("a", 1<<20),
		"1 MB of spaces":       "Bearer " + strings.Repeat(" ", 1<<20) + text,
		"JWT of four parts":    "Bearer " + someJWT + ".x",
		"JWT of empty parts":   "Bearer ..",
		"JWS in JSON":          `Bearer {"payload":"e30","signatures":[]}`,
		"JWT without issuer":   "Bearer " + someJWT,
		"a provider's key":     "Bearer sk-proj-abcdefghijklmnopqrstuvwxyz",
		"key of a data plane":  "Bearer dp" + text[2:],
		"key, one letter gone": "Bearer " + text[:20] + text[21:],
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			requireRefused(t, auth.New(auth.Config{Tokens: store}), header)
		})
	}
	require.Equal(t, finds, store.finds.Load(), "what is malformed costs no look-up")
}

// FuzzAPIKey checks that parsing never panics, that every text that parses has the documented form, and that such a
// text no longer parses if one byte is changed.
func FuzzAPIKey(f *testing.F) {
	text, _, _, err := auth.MintAPIKey(time.Now())
	require.NoError(f, err)
	f.Add(text, uint(7), byte('x'))
	f.Add("ak-"+text, uint(80), byte('_'))
	f.Add("ak__", uint(0), byte(0))
	f.Fuzz(func(t *testing.T, text string, at uint, c byte) {
		if _, _, err := auth.ParseAPIKey(text); err != nil {
			require.ErrorIs(t, err, auth.ErrUnauthenticated)
			return
		}
		require.Regexp(t, keyPattern, strings.TrimPrefix(text, "ak-"))
		wrong := []byte(text)
		wrong[at%uint(len(text))] = c
		if string(wrong) != text {
			_, _, err := auth.ParseAPIKey(string(wrong))
			require.ErrorIs(t, err, auth.ErrUnauthenticated)
		}
	})
}

// The rules for gitleaks match minted tokens in any text, and nothing shorter. Gitleaks uses the same kind of patterns.
func TestGitleaksRulesMatchWhatIsMinted(t *testing.T) {
	rules, err := os.ReadFile("../../deploy/gitleaks/agentrouter.toml")
	require.NoError(t, err)
	patterns := regexp.MustCompile(`(?m)^regex = '''(.*)'''$`).FindAllSubmatch(rules, -1)
	require.Len(t, patterns, 2)
	for i, prefix := range []string{auth.APIKeyPrefix, auth.DataPlanePrefix} {
		rule := regexp.MustCompile(string(patterns[i][1]))
		for range 100 {
			text, _, _, err := auth.Mint(prefix, time.Now())
			require.NoError(t, err)
			for _, found := range []string{text, "KEY=" + text + "\n", `{"key":"` + text + `"}`, "ak-" + text, "https://example.com/?key=" + text + "&x=1"} {
				require.Equal(t, text, rule.FindString(found))
			}
			require.Empty(t, rule.FindString(text[:len(text)-1]))
		}
	}
}
