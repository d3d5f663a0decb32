package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/big"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// The text of a service token is <prefix>_<ulid>_<secret>_<checksum>, all ASCII and of fixed length:
//
//	ulid      26 characters of Crockford base32 in upper case; public, the id of the row
//	secret    43 characters of base62 (0-9, a-z, A-Z): 32 random bytes
//	checksum   6 characters of base62: CRC-32 (IEEE) of everything before the last underscore
//
// The checksum is like that of GitHub's tokens. It lets the service refuse a mistyped token without a look-up, and lets
// a secret scanner recognize real tokens offline
// (https://github.blog/2021-04-05-behind-githubs-new-authentication-token-formats/). The encoding is base62 and not
// base64url, because base64url contains the underscore, which separates the parts.
const (
	secretBytes    = 32
	secretLength   = 43
	checksumLength = 6
)

// The prefixes of our tokens: the API keys of users, and the credentials of data planes.
const (
	APIKeyPrefix    = "ak"
	DataPlanePrefix = "dp"
)

// MintAPIKey makes a new API key: the text to show once, its id, and the hash to store (see Mint).
func MintAPIKey(now time.Time) (text, id string, hash []byte, err error) {
	return Mint(APIKeyPrefix, now)
}

// MintDataPlane makes a new token for a data plane. Its results are like MintAPIKey's.
func MintDataPlane(now time.Time) (text, id string, hash []byte, err error) {
	return Mint(DataPlanePrefix, now)
}

// ParseAPIKey splits the text of an API key; an "ak-" before it is tolerated. See Parse.
func ParseAPIKey(text string) (id string, hash [sha256.Size]byte, err error) {
	return Parse(APIKeyPrefix, strings.TrimPrefix(text, APIKeyPrefix+"-"))
}

func parseDataPlane(text string) (id string, hash [sha256.Size]byte, err error) {
	return Parse(DataPlanePrefix, text)
}

// Mint makes a token with the given prefix, which must hold no underscore. The id is a ULID of time now; hash is the SHA-256
// of the secret part's text, 32 bytes. A fast, unsalted hash is enough: the secret has 256 bits of entropy, so it can't be
// guessed however fast the hash is. Mint fails only when now does not fit a ULID.
func Mint(prefix string, now time.Time) (text, id string, hash []byte, err error) {
	u, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil {
		return "", "", nil, fmt.Errorf("mint token: %w", err)
	}
	var random [secretBytes]byte
	rand.Read(random[:]) // never fails: it ends the process rather than return less
	secret := base62(random[:], secretLength)
	body := prefix + "_" + u.String() + "_" + secret
	sum := sha256.Sum256([]byte(secret))
	return body + "_" + checksum(body), u.String(), sum[:], nil
}

// Parse checks the form of a token with the given prefix and returns its id and the hash of its secret. Its errors wrap
// ErrUnauthenticated and hold nothing of the text. The caller must look up whether the token exists.
func Parse(prefix, text string) (id string, hash [sha256.Size]byte, err error) {
	rest, ok := strings.CutPrefix(text, prefix+"_")
	if !ok || len(rest) != ulid.EncodedSize+1+secretLength+1+checksumLength {
		return "", hash, unauthenticated(errMalformed)
	}
	id, rest = rest[:ulid.EncodedSize], rest[ulid.EncodedSize:]
	secret, sum := rest[1:1+secretLength], rest[2+secretLength:]
	if rest[0] != '_' || rest[1+secretLength] != '_' || !isULID(id) || !isBase62(secret) {
		return "", hash, unauthenticated(errMalformed)
	}
	if body := text[:len(text)-checksumLength-1]; checksum(body) != sum {
		return "", hash, unauthenticated(errChecksum)
	}
	return id, sha256.Sum256([]byte(secret)), nil
}

// isULID reports whether id is a ULID in upper case. The library reads lower case too, which would be a second spelling.
func isULID(id string) bool {
	u, err := ulid.ParseStrict(id)
	return err == nil && u.String() == id
}

func checksum(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	return base62(binary.BigEndian.AppendUint32(nil, sum), checksumLength)
}

// base62 encodes b as one big-endian number, padded with zeros to width.
func base62(b []byte, width int) string {
	digits := new(big.Int).SetBytes(b).Text(62)
	return strings.Repeat("0", width-len(digits)) + digits
}

func isBase62(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}
