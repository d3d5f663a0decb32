package providers

import (
	"errors"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// ErrCredential says that a stored credential is not what its provider's entry describes: it must not be used. No error
// holds any part of it.
var ErrCredential = errors.New("credential does not fit its provider")

// Destination returns where a secret of the provider may go and what of it goes into the request's header, or the whole
// secret for a style that signs with it or gets a token for it. What decides where it goes is checked here, though it was
// when the secret came in: whoever could change what is stored could otherwise send the key to a host of their own.
func (p Provider) Destination(secret string) (baseURL, injected string, err error) {
	if p.SecretFormat == FormatToken {
		if secret == "" || !isVisibleASCII(secret) {
			return "", "", ErrCredential
		}
		return p.BaseURL, secret, nil
	}
	members, err := readMembers(secret)
	if err != nil {
		return "", "", ErrCredential // the reader's error quotes the secret
	}
	baseURL = p.BaseURL
	for _, name := range placeholderPattern.FindAllStringSubmatch(p.BaseURL, -1) {
		label, ok := textOf(members[name[1]])
		if !ok || !hostLabelPattern.MatchString(label) {
			return "", "", ErrCredential
		}
		baseURL = strings.ReplaceAll(baseURL, name[0], label)
	}
	if p.KeyField == "" {
		return baseURL, secret, nil
	}
	injected, ok := textOf(members[p.KeyField])
	if !ok || !isVisibleASCII(injected) {
		return "", "", ErrCredential
	}
	return baseURL, injected, nil
}

// textOf returns the text of a member's value, if it is a string that is not empty.
func textOf(value jsontext.Value) (string, bool) {
	text, err := jsontext.AppendUnquote(nil, value)
	return string(text), err == nil && len(text) > 0
}

// signs tells the styles that use the whole credential.
func (p Provider) signs() bool { return p.AuthStyle == AuthAWSSigV4 || p.AuthStyle == AuthGCPOAuth }
