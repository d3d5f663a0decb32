package providers

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/agentrouter/aikeys/internal/keytests"
	"github.com/agentrouter/aikeys/sealer"
)

// MaxSecretBytes is the maximum length of a secret: 16 KiB, many times the size of a service account's key file.
const MaxSecretBytes = 16 << 10

// Refusal is the error for a secret that can't be one of the provider's.
type Refusal struct {
	// Field is the field of the registration that is refused: "provider", "name" or "secret".
	Field string
	// Reason is a sentence for the caller. It is made of fixed text and names from the catalogue, never of any part of the
	// secret.
	Reason string
}

func (r *Refusal) Error() string { return r.Reason }

const (
	reasonEmpty   = "The secret is empty."
	reasonTooLong = "The secret is longer than 16 KiB."
	reasonSpace   = "The secret begins or ends with white space or a line end: give it without."
	reasonBearer  = `The secret begins with "Bearer": give the key alone, without it.`
	reasonBOM     = "The secret begins with a byte order mark, which editors put into files: give it without."
	reasonNamed   = "The secret has a name before it, like a line of an .env file or a header: give the key alone."
	reasonSeveral = "The secret holds a key, and something else before it: give one key alone."
	reasonBase64  = "The secret is a key in base64, as Kubernetes and HTTP show it: give the key itself."
	reasonOurs    = "The secret is a credential of AgentRouter's own: give the provider's key."
	reasonSession = "The secret is a session token (a JWT), which expires soon: give the provider's key."
	reasonAdmin   = "The secret is an administration key, which can make further keys: give a key for inference alone."
	reasonMasked  = "The secret is a masked value or a placeholder: give the whole key, as the provider showed it once."
	reasonIsJSON  = "The secret is a JSON document, and this provider takes the key alone."
	reasonQuoted  = "The secret is in quotes: give it without."
	reasonChars   = "The secret has characters that no key has: it must be visible ASCII without spaces."
)

// maskPattern matches texts that stand for a key on screens and in examples: asterisks, bullets, ellipses, runs of x,
// <your key>, ${NAME}, {{ name }}, $NAME and your-api-key. It is very unlikely to match a real key: the odds of eight x
// in a row in 40 random letters and digits are one in 10^10.
var maskPattern = regexp.MustCompile(
	`(?is)\*{3}|•{3}|…|\.{3}|x{8}|<.*>|\$\{.*\}|\{\{.*\}\}|^\$[a-z_]|your[-_ ](?:[a-z0-9]+[-_ ])*key`)

var bearerPattern = regexp.MustCompile(`^(?i:bearer)(?:[\s\pZ:]|$)`)

var (
	// namedPattern matches a line of an .env file or of a shell, and a header or a member that is named after a key. A
	// value must follow the equals sign, because keys in base64 end with equals signs.
	namedPattern = regexp.MustCompile(`^["']?(?:(?:export|set|setx)\s+|\$env:)?(?:[A-Za-z]\w*["']?\s*=\s*[^=\s]|(?i:[\w-]*(?:key|token|secret|authorization))["']?\s*:\s*\S)`)
	// oursPattern matches API keys and credentials of data planes, which auth mints.
	oursPattern = regexp.MustCompile(`^(?:ak-)?(?:ak|dp)_[0-9A-Z]{26}_`)
	// sessionPattern matches a signed JWT (RFC 7515 section 7.1): its header is a JSON object, so it begins with eyJ.
	sessionPattern = regexp.MustCompile(`^eyJ[\w-]+\.[\w-]+\.[\w-]+$`)
	// adminPattern matches the administration keys of OpenAI and Anthropic.
	adminPattern = regexp.MustCompile(`^sk-(?:ant-)?admin(?:\d+)?-`)
)

// byteOrderMark is U+FEFF, with which some editors and shells begin a file.
const byteOrderMark = "\ufeff"

// Form describes a secret that has the form of its provider's secrets.
type Form struct {
	// DisplaySuffix is the end of the secret that may be displayed: see the function of that name.
	DisplaySuffix string
	// Parts are the texts in it that are secret: see SecretParts.
	Parts []string
}

// CheckKey checks a key that is to be registered: the secret must have the form of the provider's secrets (see CheckSecret), and
// the name, which is shown to people, must not reveal a secret. Its errors are a *[Refusal].
func (c *Catalogue) CheckKey(provider Provider, name, secret string) (Form, error) {
	if provider.AuthStyle == AuthNone {
		if secret != NoSecret {
			return Form{}, &Refusal{"secret", "The provider takes no key: give the word " + NoSecret + " as the secret."}
		}
	} else if err := c.CheckSecret(provider, secret); err != nil {
		return Form{}, err
	}
	if c.Reveals(name, provider, secret) {
		return Form{}, &Refusal{"name", "looks like a secret; names are shown to people, choose another"}
	}
	if provider.AuthStyle == AuthNone {
		return Form{}, nil
	}
	return Form{DisplaySuffix(secret), provider.SecretParts(secret)}, nil
}

// UnknownReason returns the reason to refuse a provider that the catalogue does not have.
func (c *Catalogue) UnknownReason() string {
	return "is not a provider that we know; known are " + strings.Join(c.Slugs(), ", ")
}

// CheckSecret returns nil if a secret can be one of the provider's, and a *[Refusal] if not. It checks only the form,
// and does not ask the provider.
func (c *Catalogue) CheckSecret(p Provider, secret string) error {
	if reason := c.reasonToRefuse(p, secret); reason != "" {
		return &Refusal{"secret", reason}
	}
	return nil
}

// reasonToRefuse returns the reason to refuse a secret, or "". The reason must hold no part of the secret. That also
// applies to the functions that reasonToRefuse calls.
func (c *Catalogue) reasonToRefuse(p Provider, secret string) string {
	switch {
	case secret == "":
		return reasonEmpty
	case len(secret) > MaxSecretBytes:
		return reasonTooLong
	case strings.HasPrefix(secret, byteOrderMark):
		return reasonBOM
	case strings.TrimSpace(secret) != secret:
		return reasonSpace
	case bearerPattern.MatchString(secret):
		return reasonBearer
	case namedPattern.MatchString(secret):
		return reasonNamed
	case oursPattern.MatchString(secret):
		return reasonOurs
	case sessionPattern.MatchString(secret):
		return reasonSession
	case adminPattern.MatchString(secret):
		return reasonAdmin
	}
	if owner, ok := c.ownerByPrefix(p, secret); ok {
		return "The secret looks like a key of " + owner.DisplayName + ", not of " + p.DisplayName + "."
	}
	if p.SecretFormat == FormatJSON {
		if p.longestPrefix(secret, false) > 0 {
			return fmt.Sprintf("The secret is a key alone; it must be a JSON object with the members %s.",
				strings.Join(append(p.RequiredFields(), p.KeyField), " and "))
		}
		return p.refuseCredential(secret)
	}
	return c.refuseToken(p, secret)
}

// ownerByPrefix returns the other provider to which the secret's prefix belongs. That provider has the longest matching
// distinctive prefix, which is longer than each matching prefix of p.
func (c *Catalogue) ownerByPrefix(p Provider, secret string) (owner Provider, ok bool) {
	longest := p.longestPrefix(secret, false)
	for _, other := range c.providers {
		if other.Slug == p.Slug {
			continue
		}
		if n := other.longestPrefix(secret, true); n > longest {
			owner, ok, longest = other, true, n
		}
	}
	return owner, ok
}

// shortestKey is the length in bytes of the shortest text that counts as a key, and not as an abbreviation of one.
const shortestKey = 16

// Reveals reports whether a text that will be shown to people reveals a secret. A text reveals a secret if it contains
// the secret, a non-public member of the secret's JSON, or a word that looks like a provider's key or a credential of
// this service.
func (c *Catalogue) Reveals(text string, p Provider, secret string) bool {
	parts := []string{secret}
	if members, err := readMembers(secret); err == nil {
		for name, value := range members {
			isPublic := slices.ContainsFunc(p.Fields, func(f Field) bool { return f.Name == name && f.Public })
			if text, ok := textOf(value); ok && !isPublic {
				parts = append(parts, text)
			}
		}
	}
	for _, part := range parts {
		if len(part) >= shortestKey && strings.Contains(text, part) {
			return true
		}
	}
	for _, word := range strings.FieldsFunc(text, isSeparator) {
		for ; word != ""; _, word, _ = strings.Cut(word, "/") { // a slash may precede a key or be part of it
			if c.looksLikeKey(word) || oursPattern.MatchString(word) || sessionPattern.MatchString(word) || sharedPattern.MatchString(word) {
				return true
			}
		}
	}
	return false
}

// sharedPattern matches keys that begin with sk-, the prefix of several providers, and have no other mark of a
// provider.
var sharedPattern = regexp.MustCompile(`^sk-[A-Za-z0-9]{32,}$`)

func isSeparator(r rune) bool {
	return unicode.IsSpace(r) || strings.ContainsRune(":=,;|'\"`()[]{}<>", r)
}

func (c *Catalogue) looksLikeKey(word string) bool {
	for _, p := range c.providers {
		if n := p.longestPrefix(word, true); n > 0 && len(word) >= n+shortestKey {
			return true
		}
	}
	return false
}

// refuseToken returns the reason to refuse a secret that goes into a header field unchanged, or "". RFC 9110 section
// 5.5 allows spaces inside a field value, but no key has any, and Authorization's token68 (section 11.2) excludes them.
func (c *Catalogue) refuseToken(p Provider, secret string) string {
	switch {
	case maskPattern.MatchString(secret) || c.isBlank(secret):
		return reasonMasked
	case secret[0] == '{' || secret[0] == '[':
		return reasonIsJSON
	case strings.ContainsRune("\"'`", rune(secret[0])):
		return reasonQuoted
	case !isVisibleASCII(secret):
		return reasonChars
	case c.hasKeyWithin(secret):
		return reasonSeveral
	case c.isBase64OfKey(secret):
		return reasonBase64
	case len(secret) < p.shortestSecret():
		return fmt.Sprintf("The secret is too short for a key of %s: give the whole key, as the provider showed it once.", p.DisplayName)
	}
	return ""
}

// hasKeyWithin reports whether a key follows other text: a name, another key, or part of a document.
func (c *Catalogue) hasKeyWithin(secret string) bool {
	words := strings.FieldsFunc(secret, isSeparator)
	return len(words) > 1 && slices.ContainsFunc(words[1:], c.looksLikeKey)
}

func (c *Catalogue) isBase64OfKey(secret string) bool {
	decoded, err := base64.StdEncoding.DecodeString(secret)
	return err == nil && c.looksLikeKey(string(decoded)) && isVisibleASCII(strings.TrimSpace(string(decoded)))
}

// shortestSecret returns the minimum length of the provider's tokens, in bytes.
func (p Provider) shortestSecret() int { return cmp.Or(p.MinLength, shortestKey) }

// isBlank reports whether only x, hyphens and underscores follow the longest known prefix, as in sk-xxxx and sk-ant-.
func (c *Catalogue) isBlank(secret string) bool {
	longest := 0
	for _, p := range c.providers {
		longest = max(longest, p.longestPrefix(secret, false))
	}
	return strings.Trim(secret[longest:], "xX-_") == ""
}

func isVisibleASCII(text string) bool {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// DisplaySuffix returns the end of a secret, by which people can recognize their keys. It has four characters, or fewer
// if four are more than a quarter of the secret. It is empty for a JSON credential, whose end says nothing, and for
// text that is not UTF-8.
func DisplaySuffix(secret string) string {
	if !utf8.ValidString(secret) || strings.HasPrefix(strings.TrimSpace(secret), "{") {
		return ""
	}
	start := len(secret)
	for range min(4, utf8.RuneCountInString(secret)/4) {
		_, size := utf8.DecodeLastRuneInString(secret[:start])
		start -= size
	}
	return secret[start:]
}

// pemPattern matches text from the first line of a PEM block to the last (RFC 7468).
var pemPattern = regexp.MustCompile(`(?s)^-----BEGIN [A-Z ]+-----\r?\n.+\n-----END [A-Z ]+-----\s*$`)

// hostLabelPattern matches one label of a host name (RFC 1123 section 2.1). A label can't change the domain that follows it.
var hostLabelPattern = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

var (
	errNotObject     = errors.New("not a JSON object")
	errTrailingBytes = errors.New("trailing bytes")
)

// refuseCredential returns the reason to refuse a JSON credential by the provider's fields, or "". Members that the catalogue
// does not list are accepted.
func (p Provider) refuseCredential(secret string) string {
	members, err := readMembers(secret)
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return "The credential's JSON has a member twice."
	case errors.Is(err, errTrailingBytes):
		return "The credential's JSON is followed by something else: give one object."
	case err != nil:
		required := "The secret must be a JSON object with "
		if names := p.RequiredFields(); len(names) > 0 {
			required += joinMembers(names)
			if len(p.Alternatives) > 0 {
				required += ", and "
			}
		}
		if len(p.Alternatives) > 0 {
			required += "either " + p.joinAlternatives()
		}
		return required + "."
	}
	for _, f := range p.Fields {
		value, ok := members[f.Name]
		if !ok {
			continue
		}
		if reason := p.refuseMember(f, value); reason != "" {
			return "The credential's " + f.Name + " " + reason + "."
		}
	}
	missing := slices.DeleteFunc(p.RequiredFields(), func(name string) bool {
		_, ok := members[name]
		return ok
	})
	if len(missing) > 0 { // checked last, since a wrong type explains why other members are missing
		return "The credential lacks " + joinMembers(missing) + "."
	}
	return p.refuseAlternatives(members)
}

// refuseAlternatives returns the reason to refuse a credential that does not have the fields of exactly one of the alternatives, or "".
func (p Provider) refuseAlternatives(members map[string]jsontext.Value) string {
	given := slices.DeleteFunc(slices.Concat(p.Alternatives...), func(name string) bool { return len(members[name]) == 0 })
	slices.Sort(given)
	given = slices.Compact(given)
	for _, group := range p.Alternatives {
		if slices.Equal(slices.Sorted(slices.Values(group)), given) {
			return ""
		}
	}
	if len(p.Alternatives) == 0 {
		return ""
	}
	return "The credential needs either " + p.joinAlternatives() + "."
}

// joinMembers returns the words for members in a sentence.
func joinMembers(names []string) string {
	if len(names) == 1 {
		return "the member " + names[0]
	}
	return "the members " + strings.Join(names, ", ")
}

// joinAlternatives returns the words for the alternatives in a sentence. A credential has the members of exactly one.
func (p Provider) joinAlternatives() string {
	var choices []string
	for _, group := range p.Alternatives {
		choices = append(choices, strings.Join(group, " and "))
	}
	return strings.Join(choices, ", or ")
}

// refuseMember returns the fault of a member's value as the end of a sentence, or "".
func (p Provider) refuseMember(f Field, value jsontext.Value) string {
	unquoted, err := jsontext.AppendUnquote(nil, value) // an error for any value but a string
	text := string(unquoted)
	switch {
	case err != nil, strings.TrimSpace(text) == "":
		return "must be a string that is not empty"
	case maskPattern.MatchString(text):
		return "is a masked value or a placeholder"
	case oursPattern.MatchString(text):
		return "is a credential of AgentRouter's own"
	case len(f.OneOf) > 0 && !slices.Contains(f.OneOf, text):
		return "must be " + strings.Join(f.OneOf, " or ")
	case f.Name == fieldEndpoint && len(p.Clouds) > 0 && !p.isEndpoint(text):
		return "must be a URL without a path, such as https://my-resource" + p.Clouds[0].Hosts[0][1:] + ", on one of " + strings.Join(p.CloudHosts(), ", ")
	case strings.Contains(p.BaseURL, "{"+f.Name+"}") && !hostLabelPattern.MatchString(text):
		return "must be a name of letters, digits and hyphens, not a URL or a host"
	case !f.matches(text):
		return "must be like " + f.Like
	case f.reasonUnserved(text) != "":
		return f.reasonUnserved(text)
	case f.Multiline:
		return refusePEM(text)
	case !isVisibleASCII(text):
		return "must be visible ASCII without spaces"
	}
	return ""
}

// reasonUnserved returns why a value is not served as the end of a sentence, or "".
func (f Field) reasonUnserved(value string) string {
	for beginning, reason := range f.Unserved {
		if strings.HasPrefix(value, beginning) {
			return reason
		}
	}
	return ""
}

// refusePEM returns the fault of a PEM block as the end of a sentence, or "".
func refusePEM(text string) string {
	switch {
	case strings.Contains(text, `\n`):
		return `has \n in place of its line ends: give the file as it was downloaded`
	case !isVisibleASCII(strings.NewReplacer(" ", "", "\r", "", "\n", "").Replace(text)):
		return "must be ASCII text"
	case !pemPattern.MatchString(text):
		return "must be whole, from the line that begins with -----BEGIN to the one that begins with -----END"
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil { // the catalogue's examples are not valid PEM
		return ""
	}
	if len(block.Bytes) > maxPrivateKey {
		return "is longer than an RSA key of 4096 bits, the most that can sign here: make a key of 2048 bits, as Google does"
	}
	if _, err := parsePrivateKey(text); err != nil {
		return "is not an RSA key, or was cut off: give the file as it was downloaded"
	}
	return ""
}

// readMembers reads one JSON object (RFC 8259) and returns its members' values undecoded. Duplicate names at any depth
// and invalid UTF-8 are errors, as RFC 7493 requires. Its errors hold parts of the document, so they may be compared
// but never shown.
func readMembers(document string) (map[string]jsontext.Value, error) {
	decoder := jsontext.NewDecoder(strings.NewReader(document))
	if token, err := decoder.ReadToken(); err != nil || token.Kind() != jsontext.KindBeginObject {
		return nil, errNotObject
	}
	members := map[string]jsontext.Value{}
	for {
		token, err := decoder.ReadToken()
		if err != nil {
			return nil, err
		}
		if token.Kind() == jsontext.KindEndObject {
			break
		}
		name := token.String() // copied now: the token does not survive the next read
		value, err := decoder.ReadValue()
		if err != nil {
			return nil, err
		}
		members[name] = value.Clone()
	}
	if _, err := decoder.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errTrailingBytes
	}
	return members, nil
}

// ErrCredential says that a stored credential does not match its provider's entry and must not be used. The error holds no
// part of the credential.
var ErrCredential = errors.New("credential does not fit its provider")

// Credential is a stored secret as a data plane gets it.
type Credential struct {
	// BaseURL is where the Secret may go.
	BaseURL string
	// Secret goes into the header of Style: it is the secret, a field of the secret, or a token that was made with it.
	Secret string
	Style  AuthStyle
	// Life is how long a token is valid; it is 0 if the secret is sent unchanged. Refresh is the time after which a new
	// token should be fetched.
	Life, Refresh time.Duration
	// Grant is the request that exchanges the credential for the Secret, which is empty until then. It is nil if no
	// exchange is needed.
	Grant *Grant
}

// refreshPercent is the part of a token's life after which a new one should be fetched.
const refreshPercent = 80

// SetToken sets the token of a credential.
func (c *Credential) SetToken(token string, life time.Duration) {
	c.Secret, c.Life, c.Refresh = token, life, RefreshAfter(life)
}

// RefreshAfter returns the age at which a token should be replaced. life is how long the token is valid.
func RefreshAfter(life time.Duration) time.Duration { return life * refreshPercent / 100 }

// Credential returns what a data plane gets for a secret of the provider. If the secret signs, the data plane gets only
// the signed token. The parts that decide the host were checked at registration and are checked again here, so that
// changing the stored credential can't redirect the key to another host.
func (p Provider) Credential(secret string, now time.Time) (Credential, error) {
	got := Credential{Secret: secret, BaseURL: p.BaseURL, Style: p.AuthStyle}
	if p.SecretFormat == FormatToken {
		if secret == "" || !isVisibleASCII(secret) {
			return Credential{}, ErrCredential
		}
		return got, nil
	}
	members, err := readMembers(secret)
	if err != nil {
		return Credential{}, ErrCredential // the reader's error quotes the secret
	}
	field := fieldsOf(members)
	var cloud Cloud
	if got.BaseURL, cloud, err = p.destination(field); err != nil {
		return Credential{}, err
	}
	if key := field(p.KeyField); p.KeyField != "" && key != "" {
		if !isVisibleASCII(key) {
			return Credential{}, ErrCredential
		}
		got.Secret = key
		if p.signs() {
			got.Style = AuthBearer
		}
		return got, nil
	}
	got.Secret = ""
	return p.derive(got, cloud, field, now)
}

// derive adds to a credential the token that is signed with it, or the Grant that is exchanged for a token.
func (p Provider) derive(got Credential, cloud Cloud, field func(name string) string, now time.Time) (Credential, error) {
	var err error
	switch {
	case p.signs() && field(fieldRole) != "":
		got.Grant, err = p.grantOfRole(field)
	case p.signs():
		var token string
		var life time.Duration
		if token, life, err = p.sign(field, now); err == nil {
			got.SetToken(token, life)
		}
	case cloud.TokenURL != "":
		got.Style = AuthAzureEntra
		got.Grant, err = p.grant(cloud, field)
	default:
		err = ErrCredential
	}
	if err != nil {
		return Credential{}, err
	}
	return got, nil
}

// destination returns the base URL for a credential and, if the provider has several clouds, the credential's cloud. If
// the credential's fields complete the catalogue's base URL, that URL is used and the credential's endpoint is ignored,
// as in releases that had no field endpoint.
func (p Provider) destination(field func(name string) string) (baseURL string, cloud Cloud, err error) {
	baseURL, completed := p.BaseURL, true
	for _, name := range placeholderPattern.FindAllStringSubmatch(p.BaseURL, -1) {
		label := field(name[1])
		completed = completed && hostLabelPattern.MatchString(label)
		baseURL = strings.ReplaceAll(baseURL, name[0], label)
	}
	switch {
	case completed && len(p.Clouds) == 0:
		return baseURL, Cloud{}, nil
	case completed:
		return baseURL, p.Clouds[0], nil
	}
	host, cloud, ok := p.endpointHost(field(fieldEndpoint))
	if !ok {
		return "", Cloud{}, ErrCredential
	}
	return "https://" + host, cloud, nil
}

// endpointHost returns the host of an endpoint's URL and its cloud. ok is false unless the URL is https:// followed by
// a host of one of the clouds.
func (p Provider) endpointHost(endpoint string) (host string, cloud Cloud, ok bool) {
	host, isHTTPS := strings.CutPrefix(strings.TrimSuffix(strings.ToLower(endpoint), "/"), "https://")
	label, domain, _ := strings.Cut(host, ".")
	for _, cloud := range p.Clouds {
		if isHTTPS && hostLabelPattern.MatchString(label) && slices.Contains(cloud.Hosts, "*."+domain) {
			return host, cloud, true
		}
	}
	return "", cloud, false
}

// isEndpoint reports whether text is the URL of a host of one of the clouds.
func (p Provider) isEndpoint(text string) bool {
	_, _, ok := p.endpointHost(text)
	return ok
}

// Open opens an envelope that holds a secret of the provider, and returns what a data plane gets for it. The plaintext is wiped.
func (p Provider) Open(ctx context.Context, s sealer.Sealer, binding sealer.Binding, envelope []byte, now time.Time) (opened Credential, err error) {
	err = p.open(ctx, s, binding, envelope, now, func(c Credential, _ string) error {
		opened = c
		return nil
	})
	return opened, err
}

// OpenTest opens an envelope like Open, for a data plane that tests the secret, and also returns the test. If the
// credential has a Grant, the returned test is empty, because the exchange is the test.
func (p Provider) OpenTest(
	ctx context.Context, s sealer.Sealer, binding sealer.Binding, envelope []byte, now time.Time,
) (opened Credential, test keytests.Test, err error) {
	err = p.open(ctx, s, binding, envelope, now, func(c Credential, secret string) (err error) {
		if opened = c; c.Grant == nil {
			test, err = p.NewTest(ctx, secret, c, now)
		}
		return err
	})
	return opened, test, err
}

// open opens an envelope and wipes the plaintext after use.
func (p Provider) open(
	ctx context.Context, s sealer.Sealer, binding sealer.Binding, envelope []byte, now time.Time, use func(c Credential, secret string) error,
) error {
	plain, err := s.Open(ctx, binding, envelope)
	if err != nil {
		return err
	}
	defer plain.Wipe()
	secret := string(plain.Reveal())
	opened, err := p.Credential(secret, now)
	opened.SetHolder(binding.CustomerID, binding.KeyID)
	if err != nil {
		return err
	}
	return use(opened, secret)
}

// SecretParts returns the confidential parts of a provider's secret: the whole secret, and the fields of a credential,
// except public fields and fields that have a fixed list of values, which many credentials share. It returns nil for a
// provider that takes no key.
func (p Provider) SecretParts(secret string) []string {
	if p.AuthStyle == AuthNone {
		return nil
	}
	parts := []string{secret}
	members, err := readMembers(secret)
	if err != nil {
		return parts
	}
	for _, f := range p.Fields {
		if text, ok := textOf(members[f.Name]); ok && !f.Public && len(f.OneOf) == 0 {
			parts = append(parts, text)
		}
	}
	return parts
}

// maxCandidates bounds how many texts Candidates returns.
const maxCandidates = 24

// Candidates returns the parts of a found text that may be the secret, at most maxCandidates: the whole text, each
// value after a name, without quotes, and each long word. The found text may be a line of an .env file, a header or a
// credential's JSON.
func Candidates(found string) []string {
	found = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(found), byteOrderMark))
	all := []string{found}
	if members, err := readMembers(found); err == nil {
		for _, value := range members {
			if text, ok := textOf(value); ok {
				all = append(all, text)
			}
		}
	}
	for _, separator := range []string{"=", ":"} { // a key may end with equals signs
		if _, rest, ok := strings.Cut(found, separator); ok {
			all = append(all, strings.Trim(strings.TrimSpace(rest), "\"'`;,"))
		}
	}
	all = append(all, strings.Trim(found, "\"'`;,"))
	for _, word := range strings.FieldsFunc(found, isSeparator) {
		if len(word) >= shortestKey {
			all = append(all, word)
		}
	}
	var distinct []string
	for _, text := range all {
		if text != "" && len(distinct) < maxCandidates && !slices.Contains(distinct, text) {
			distinct = append(distinct, text)
		}
	}
	return distinct
}

// fieldsOf returns a function that returns a credential's field by name. It returns "" for a field that is absent or
// not a string.
func fieldsOf(members map[string]jsontext.Value) func(name string) string {
	return func(name string) string {
		text, _ := textOf(members[name])
		return text
	}
}

// textOf returns the text of a member's value; ok is false unless it is a non-empty string.
func textOf(value jsontext.Value) (text string, ok bool) {
	unquoted, err := jsontext.AppendUnquote(nil, value)
	return string(unquoted), err == nil && len(unquoted) > 0
}
