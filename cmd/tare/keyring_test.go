package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zalando/go-keyring"

	"github.com/agentrouter/aikeys/internal/secret"
)

// fakeKeyring is a keyring that holds at most limit bytes an item, or fails.
type fakeKeyring struct {
	limit int
	err   error
	items map[string]string
}

func (k *fakeKeyring) Set(_, account, text string) error {
	if k.err == nil && len(text) > k.limit {
		return keyring.ErrSetDataTooBig
	}
	if k.err == nil {
		k.items[account] = text
	}
	return k.err
}

func (k *fakeKeyring) Get(_, account string) (string, error) {
	if text, ok := k.items[account]; ok || k.err != nil {
		return text, k.err
	}
	return "", keyring.ErrNotFound
}

func (k *fakeKeyring) Delete(_, account string) error {
	delete(k.items, account)
	return k.err
}

func TestMoveToKeyring(t *testing.T) {
	t.Parallel()
	token, refresh := secret.New(strings.Repeat("t", 2000)), secret.New(strings.Repeat("r", 1000))
	for name, c := range map[string]struct {
		store    keyringStore
		setting  string
		storedIn string
		failure  string
	}{
		"fits":        {store: &fakeKeyring{limit: 4000}, storedIn: storedInKeyring},
		"fits partly": {store: &fakeKeyring{limit: 2500}, storedIn: storedInBoth},
		"too large":   {store: &fakeKeyring{limit: 500}, storedIn: storedInFile, failure: errKeyringTooSmall.Error()},
		"locked":      {store: &fakeKeyring{err: errors.New("it is locked")}, storedIn: storedInFile, failure: "it is locked"},
		"panics":      {store: keyringStore(nil), storedIn: storedInFile, failure: "the keyring failed"},
		"off":         {store: &fakeKeyring{limit: 4000}, setting: "off", storedIn: storedInFile, failure: "TARE_KEYRING is off"},
	} {
		fake, isFake := c.store.(*fakeKeyring)
		if isFake {
			fake.items = map[string]string{"old": "{}"}
		}
		var stderr bytes.Buffer
		p := newProgram([]string{configDirVariable + "=" + t.TempDir(), busVariable + "=x", keyringVariable + "=" + c.setting}, nil, nil, &stderr)
		p.keyring = c.store
		requireSame := func(want, got profile) {
			require.Equal(t, want.APIKey.Reveal(), got.APIKey.Reveal(), name)
			require.Equal(t, want.SignIn.RefreshToken.Reveal(), got.SignIn.RefreshToken.Reveal(), name)
		}
		whole := profile{BaseURL: "https://a.example", Keyring: "old", APIKey: token, SignIn: &signIn{RefreshToken: refresh}}
		one := whole
		err := p.moveToKeyring("prod", &one)
		require.Equal(t, c.storedIn, one.storedIn(), name)
		if c.failure != "" {
			require.EqualError(t, err, c.failure, name)
			require.Empty(t, one.Keyring, name)
			requireSame(whole, one)
			require.False(t, isFake && fake.items["old"] != "", name)
			require.Equal(t, name == "locked" || name == "panics", stderr.Len() > 0, "a warning that the old item is left: %s", &stderr)
			continue
		}
		require.NoError(t, err, name)
		text, err := json.Marshal(one)
		require.NoError(t, err)
		require.NotContains(t, string(text), refresh.Reveal(), name)
		require.Equal(t, refresh.Reveal(), whole.SignIn.RefreshToken.Reveal(), "it is in use")
		require.NoError(t, p.readKeyring(&one), name)
		requireSame(whole, one)
		elsewhere := profile{BaseURL: "https://b.example", Keyring: one.Keyring, SignIn: &signIn{}}
		require.ErrorIs(t, p.readKeyring(&elsewhere), errNotLoggedIn, name)
		require.Empty(t, elsewhere.keyringItem().APIKey.Reveal()+elsewhere.keyringItem().RefreshToken.Reveal(), "they are for another service")
		fake.err = errors.New("it is locked now")
		one.SignIn.RefreshToken = secret.Text{}
		require.ErrorContains(t, p.readKeyring(&one), "can't be read: it is locked now", name)
	}
}
