package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
)

const (
	// fetchTimeout bounds one fetch of both documents; maxDocument bounds each document in bytes.
	fetchTimeout = 5 * time.Second
	maxDocument  = 1 << 20
	maxRedirects = 3
	// keysMaxAge is the age at which keys are fetched again, so that withdrawn keys are dropped. keysKept is the age up
	// to which keys are used if they can't be fetched again.
	keysMaxAge = 5 * time.Minute
	keysKept   = time.Hour
	// searchInterval is the least time between two fetches for unknown key ids. Anyone can make up such ids.
	searchInterval = 5 * time.Second
	// retryInterval is the least time from a failed fetch to the next fetch if there are no usable keys, or if a JWT
	// needs an unknown key. staleRetryInterval is the least time in all other cases.
	retryInterval      = time.Second
	staleRetryInterval = 30 * time.Second
)

// keySource caches the issuer's public keys. It replaces go-oidc's RemoteKeySet, which fetches for every unknown key id, never
// drops a key that the issuer has withdrawn, and does not say whether the fetch or the signature failed.
type keySource struct {
	issuer  string
	client  *http.Client
	now     func() time.Time
	fetches singleflight.Group       // one fetch at a time, under the empty key
	state   atomic.Pointer[keyState] // written by fetches only
}

// keyState is the outcome of the fetches so far.
type keyState struct {
	keys     []jose.JSONWebKey
	fetched  time.Time // when keys were read
	document discovery // the document that named the keys
	tried    time.Time // when the last fetch ended, whether or not it succeeded
	searched time.Time // when the last fetch for an unknown key ended
	err      error     // of the last fetch
}

// newKeySource returns a keySource that has fetched nothing yet.
func newKeySource(issuer string, client *http.Client, now func() time.Time) *keySource {
	own := http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DisableKeepAlives:      true, // fetches are minutes apart
		MaxResponseHeaderBytes: 64 << 10,
	}}
	if client != nil {
		own = *client
	}
	own.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if !isSecureURL(req.URL) || len(via) > maxRedirects {
			return errors.New("redirect refused")
		}
		return nil
	}
	s := &keySource{issuer: issuer, client: &own, now: now}
	s.state.Store(&keyState{})
	return s
}

// verify returns the payload of a JWT that one of the issuer's keys has signed. If no cached key verifies it, verify
// fetches the keys once more, and so notices a rotation
// (https://openid.net/specs/openid-connect-core-1_0.html#RotateSigKeys).
func (s *keySource) verify(ctx context.Context, jwt string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(jwt, algorithms())
	if err != nil {
		return nil, unauthenticated(errAlgorithm)
	}
	for _, search := range []bool{false, true} {
		state, err := s.current(ctx, search)
		if err != nil {
			return nil, err
		}
		if payload, ok := verifyWith(state.keys, jws); ok {
			return payload, nil
		}
	}
	return nil, unauthenticated(errSignature)
}

// verifyWith tries the keys that may have signed: those with the token's key id, or all if the token has none.
func verifyWith(keys []jose.JSONWebKey, jws *jose.JSONWebSignature) ([]byte, bool) {
	header := jws.Signatures[0].Protected
	for i := range keys {
		key := &keys[i]
		if header.KeyID != "" && key.KeyID != header.KeyID || key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := jws.Verify(key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// current returns the keys, and first fetches them if a fetch is due. search is set if the caller did not find its key
// among the cached keys. Callers share one fetch.
func (s *keySource) current(ctx context.Context, search bool) (*keyState, error) {
	state := s.state.Load()
	if state.isDue(s.now(), search) {
		var err error
		state, err = shared(ctx, &s.fetches, "", fetchTimeout, func(ctx context.Context) (*keyState, error) {
			return s.refresh(ctx, search), nil
		})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrIssuerUnavailable, err)
		}
	}
	if state.err != nil && (search || !state.isUsable(s.now())) {
		return nil, fmt.Errorf("%w: %w", ErrIssuerUnavailable, state.err)
	}
	return state, nil
}

// isDue reports whether the next fetch may be made.
func (k *keyState) isDue(now time.Time, search bool) bool {
	switch {
	case k.err == nil && search:
		return now.Sub(k.searched) >= searchInterval
	case k.err == nil:
		return now.Sub(k.tried) >= keysMaxAge
	case search || !k.isUsable(now):
		return now.Sub(k.tried) >= retryInterval
	default:
		return now.Sub(k.tried) >= staleRetryInterval
	}
}

func (k *keyState) isUsable(now time.Time) bool {
	return len(k.keys) > 0 && now.Sub(k.fetched) < keysKept
}

// refresh fetches the keys, unless another fetch has just ended and made this one unnecessary. A failed fetch keeps the
// old keys.
func (s *keySource) refresh(ctx context.Context, search bool) *keyState {
	state := s.state.Load()
	if !state.isDue(s.now(), search) {
		return state
	}
	document, keys, err := s.fetch(ctx)
	now := s.now()
	next := &keyState{keys: keys, document: document, fetched: now, tried: now, searched: state.searched, err: err}
	if err != nil {
		next.keys, next.document, next.fetched = state.keys, state.document, state.fetched
	}
	if search {
		next.searched = now
	}
	s.state.Store(next)
	return next
}

// fetch reads the discovery document (https://openid.net/specs/openid-connect-discovery-1_0.html) and the key set that it
// names. It reads both each time, so that a key set that has moved is found.
func (s *keySource) fetch(ctx context.Context) (document discovery, _ []jose.JSONWebKey, err error) {
	err = s.get(ctx, strings.TrimSuffix(s.issuer, "/")+"/.well-known/openid-configuration", &document)
	if err != nil {
		return discovery{}, nil, fmt.Errorf("discovery document: %w", err)
	}
	if document.Issuer != s.issuer {
		return discovery{}, nil, errors.New("discovery document: names another issuer than the one configured")
	}
	if !isSecureText(document.KeysURL) {
		return discovery{}, nil, errors.New("discovery document: jwks_uri is not an https URL")
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := s.get(ctx, document.KeysURL, &set); err != nil {
		return discovery{}, nil, fmt.Errorf("key set: %w", err)
	}
	keys := publicKeys(set.Keys)
	if len(keys) == 0 {
		return discovery{}, nil, errors.New("key set: has no key that can verify a signature")
	}
	return document, keys, nil
}

// publicKeys returns the keys of a set that can verify a signature. Unknown kinds are skipped, as RFC 7517, section 5 says.
func publicKeys(set []json.RawMessage) []jose.JSONWebKey {
	var keys []jose.JSONWebKey
	for _, raw := range set {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) == nil && key.Valid() && key.IsPublic() && key.Use != "enc" {
			keys = append(keys, key)
		}
	}
	return keys
}

// get fetches a JSON document and decodes it into to. Its errors quote nothing of the answer.
func (s *keySource) get(ctx context.Context, from string, to any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered with status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return err
	}
	if len(body) > maxDocument {
		return fmt.Errorf("is longer than %d bytes", maxDocument)
	}
	if json.Unmarshal(body, to) != nil {
		return errors.New("is not the JSON document expected")
	}
	return nil
}
