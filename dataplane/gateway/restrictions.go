package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/agentrouter/aikeys/dataplane"
)

var (
	errModelRestricted     = errors.New("model not allowed for the key")
	errOperationRestricted = errors.New("operation not allowed for the key")
	// errModelUnreadable and errModelInBody: the key is restricted to certain models, but the gateway can't find out
	// the request's model. Either the model can't be read, or the model is in the body, which the proxy does not send.
	errModelUnreadable = errors.New("model can't be read")
	errModelInBody     = errors.New("model is in the body, which the proxy does not send")
	// errNextRestricted: the first key is at a limit, and the next key may not be used for the request.
	errNextRestricted = errors.New("the first key is at a limit, and the next one is restricted")
)

// reasonNextKey is the reason of a key that serves because the first is at a limit.
const reasonNextKey = "next_key_limited"

// asLimit returns the error for a request that a key may not serve. If err comes from a restriction, and the key serves
// only because the first key is at a limit, asLimit returns errNextRestricted: the caller may repeat the request later.
// Otherwise it returns err.
func asLimit(key *dataplane.Key, err error) error {
	if key != nil && key.Reason == reasonNextKey &&
		isAny(err, errModelRestricted, errOperationRestricted, errModelUnreadable, errModelInBody) {
		return errNextRestricted
	}
	return err
}

// modelHeadLimit is how much of a body may come before the model's name has been read.
const modelHeadLimit = 64 << 10

// checkRestrictions refuses a request whose head shows that the key may not be used for it. inBody reports whether the
// model is in the body, which checkModel reads.
func checkRestrictions(d destination, target *url.URL, header http.Header, rawQuery string) (inBody bool, err error) {
	allowed := d.key.Restrictions
	if allowed == nil {
		return false, nil
	}
	path := d.pathOnHost(target)
	below := strings.TrimPrefix(path, strings.TrimRight(d.own.EscapedPath(), "/"))
	if len(allowed.Operations) > 0 && !slices.ContainsFunc(allowed.Operations, func(pattern string) bool {
		return isBelow(path, pattern) || isBelow(below, pattern)
	}) {
		return false, errOperationRestricted
	}
	if len(allowed.Models) == 0 {
		return false, nil
	}
	if header["Upgrade"] != nil || namesModel(rawQuery) {
		return false, errModelUnreadable // frames can switch the model
	}
	if model, ok := modelInPath(d.key.Provider, strings.Split(strings.Trim(path, "/"), "/")); ok {
		if !allowed.AllowsModel(model) {
			return false, errModelRestricted
		}
		return false, nil
	}
	if !hasModelInBody(path) {
		return false, errModelUnreadable
	}
	return true, nil
}

// isBelow reports whether an escaped path matches the pattern, or is below a path that does. It compares literally: a
// lenient reading would allow more.
func isBelow(path, pattern string) bool {
	path = strings.TrimPrefix(path, "/")
	for part := range strings.SplitSeq(strings.TrimPrefix(pattern, "/"), "/") {
		segment, rest, _ := strings.Cut(path, "/")
		if suffix, isAny := strings.CutPrefix(part, "*"); segment == "" || part != segment && !(isAny && strings.HasSuffix(segment, suffix)) {
			return false
		}
		path = rest
	}
	return true
}

// namesModel reports whether a query has a parameter for the model, or can't be read.
func namesModel(rawQuery string) bool {
	parameters, err := url.ParseQuery(rawQuery)
	for name := range parameters {
		if strings.EqualFold(name, "model") {
			return true
		}
	}
	return err != nil
}

// modelInPath returns the model that a path on the provider's host names. ok is false if the path names no model. It is
// also false for batches, because each request in a batch names its own model.
func modelInPath(provider string, segments []string) (model string, ok bool) {
	escaped, last := "", len(segments)-1
	switch {
	case provider == "bedrock" && last == 2 && segments[0] == "model":
		escaped = segments[1]
	case provider == "azure_openai" && last > 2 && segments[0] == "openai" && segments[1] == "deployments":
		escaped = segments[2]
	case provider == "gemini" && last == 2 && segments[1] == "models", strings.HasPrefix(provider, "vertex") && isVertexModel(segments):
		escaped = modelOfMethod(segments[last])
	}
	model, err := url.PathUnescape(escaped)
	return model, err == nil && model != ""
}

// isVertexModel reports whether a path is …/publishers/{publisher}/models/{model}:{method}.
func isVertexModel(segments []string) bool {
	last := len(segments) - 1
	return last > 3 && segments[last-3] == "publishers" && segments[last-1] == "models"
}

// modelOfMethod returns the model of {model}:{method}, empty for a method that serves a batch.
func modelOfMethod(segment string) string {
	colon := strings.LastIndexByte(segment, ':')
	if colon < 0 || strings.Contains(strings.ToLower(segment[colon:]), "batch") {
		return ""
	}
	return segment[:colon]
}

// modelOperations are the ends of the paths at which the member `model` of a request's body decides which model serves it.
var modelOperations = []string{
	"/chat/completions", "/completions", "/fim/completions", "/responses", "/messages", "/messages/count_tokens",
	"/embeddings", "/moderations", "/chat/moderations", "/classifications", "/images/generations", "/video/generations", "/audio/speech",
	"/rerank", "/chat", "/embed", "/generate", "/classify", "/tokenize", "/ocr",
}

// hasModelInBody reports whether the model of a request for a path on the provider's host is in its body.
func hasModelInBody(path string) bool {
	return strings.IndexByte(path, '%') < 0 && slices.ContainsFunc(modelOperations, func(end string) bool { return strings.HasSuffix(path, end) })
}

// checkModel reads the model in the body of a request, and returns the body to send. A read of the returned body fails
// if the body later names another model. If checkModel returns an error, nothing of the body has been sent.
func checkModel(d destination, header http.Header, body io.ReadCloser) (io.ReadCloser, error) {
	if body == nil || !isPlainJSON(header) {
		return body, errModelUnreadable
	}
	checked := &modelBody{ReadCloser: body}
	if !checked.readModel() {
		return body, errModelUnreadable
	}
	if !d.allowsModel(checked.scanner.name()) {
		return body, errModelRestricted
	}
	return checked, nil
}

// allowsModel reports whether the key may serve the model that a body names.
func (d destination) allowsModel(name string) bool {
	if d.key.Provider == "gemini" {
		name = strings.TrimPrefix(name, "models/")
	}
	return d.key.Restrictions.AllowsModel(name)
}

// isPlainJSON reports whether a body is JSON in UTF-8 that is not compressed.
func isPlainJSON(header http.Header) bool {
	if encoding := header["Content-Encoding"]; len(encoding) > 1 || len(encoding) == 1 && !strings.EqualFold(encoding[0], "identity") {
		return false
	}
	types := header["Content-Type"]
	if len(types) != 1 {
		return false
	}
	media, parameters, err := mime.ParseMediaType(types[0])
	charset, hasCharset := parameters["charset"]
	return err == nil && media == "application/json" && (!hasCharset || strings.EqualFold(charset, "utf-8"))
}

// modelBody is a body whose model has been read. It checks the rest while the transport reads it, and fails before it passes
// on a second model, or anything that is not JSON.
type modelBody struct {
	io.ReadCloser
	scanner modelScanner
	head    []byte // read already, and not passed on yet
	err     error  // the error that came with it
}

// readModel reads up to the model. It reports whether the model was found and what it has read may be sent.
func (b *modelBody) readModel() bool {
	head := make([]byte, 0, 4<<10)
	for !b.scanner.hasModel() {
		if len(head) == cap(head) {
			head = slices.Grow(head, len(head))
		}
		var n int
		n, b.err = b.ReadCloser.Read(head[len(head):min(cap(head), modelHeadLimit)])
		head = head[:len(head)+n]
		if !b.scanner.feed(head[len(head)-n:]) || !b.scanner.hasModel() && (b.err != nil || len(head) == modelHeadLimit) {
			return false
		}
	}
	b.head = head
	return !errors.Is(b.err, io.EOF) || b.scanner.isWhole()
}

// Read implements io.Reader.
func (b *modelBody) Read(p []byte) (int, error) {
	if len(b.head) > 0 {
		n := copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p)
	if !b.scanner.feed(p[:n]) || errors.Is(err, io.EOF) && !b.scanner.isWhole() {
		b.err = errModelUnreadable
		return 0, b.err
	}
	return n, err
}

// modelScanner reads the top-level member `model` of a JSON object that comes in pieces, and checks that nothing else
// in it could be taken for that member. It uses a bounded amount of memory, so bodies can be of any length. It is
// stricter than JSON: it limits the length of names and numbers, and the depth of nesting.
type modelScanner struct {
	state   scanState
	nesting []byte // the open objects and arrays, as { and [
	token   []byte // of the literal, the top-level name or the model that is being read
	isModel bool   // whether the next value is the model
	escape  int    // how many characters of an escape are missing
	char    []byte // what has been read of a character of several bytes
	model   string // in JSON, with quotes; empty until it was read
}

type scanState byte

const (
	beforeObject scanState = iota
	beforeFirstName
	beforeName
	inName
	beforeColon
	beforeValue
	beforeFirstElement
	inString
	inLiteral // a number, true, false or null
	afterValue
	afterObject
)

const (
	maxNesting = 512
	maxToken   = 1 << 10 // of a number, a model's name, or the name of a member at the top
)

// hasModel reports whether the model has been read, and isWhole whether the object has ended.
func (s *modelScanner) hasModel() bool { return s.model != "" }
func (s *modelScanner) isWhole() bool  { return s.state == afterObject }

// name returns the model's name.
func (s *modelScanner) name() (name string) {
	_ = json.Unmarshal([]byte(s.model), &name) // endString has read it
	return name
}

// feed reads the next piece. It returns false if the model can't be determined: then nothing of the piece may be used.
func (s *modelScanner) feed(piece []byte) bool {
	for _, c := range piece {
		if !s.next(c) {
			return false
		}
	}
	return true
}

func (s *modelScanner) next(c byte) bool {
	switch s.state {
	case inName, inString:
		return s.nextInString(c)
	case inLiteral:
		if isLiteral(c) {
			return s.keep(c)
		}
		if !json.Valid(s.token) {
			return false
		}
		s.state = afterValue
	default:
	}
	if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
		return true
	}
	return s.nextBetween(c)
}

// nextBetween reads a character that is outside names and values and is not white space.
func (s *modelScanner) nextBetween(c byte) bool {
	switch s.state {
	case beforeObject:
		return c == '{' && s.open(c)
	case beforeFirstName, beforeName:
		if c == '"' {
			s.state, s.token = inName, s.token[:0]
			return true
		}
		return c == '}' && s.state == beforeFirstName && s.close('{')
	case beforeColon:
		s.state = beforeValue
		return c == ':'
	case beforeFirstElement:
		if c == ']' {
			return s.close('[')
		}
		return s.beginValue(c)
	case beforeValue:
		return s.beginValue(c)
	case afterValue:
		return s.nextAfterValue(c)
	default:
		return false // after the object
	}
}

// nextAfterValue reads what follows a member's or an element's value.
func (s *modelScanner) nextAfterValue(c byte) bool {
	in := s.nesting[len(s.nesting)-1]
	switch {
	case c == ',' && in == '{':
		s.state = beforeName
	case c == ',':
		s.state = beforeValue
	case c == '}':
		return s.close('{')
	case c == ']':
		return s.close('[')
	default:
		return false
	}
	return true
}

func (s *modelScanner) beginValue(c byte) bool {
	if s.isModel && c != '"' {
		return false
	}
	switch {
	case c == '"':
		s.state, s.token = inString, s.token[:0]
	case c == '{' || c == '[':
		return s.open(c)
	case isLiteral(c):
		s.state, s.token = inLiteral, append(s.token[:0], c)
	default:
		return false
	}
	return true
}

func (s *modelScanner) open(c byte) bool {
	s.nesting = append(s.nesting, c)
	if s.state = beforeFirstElement; c == '{' {
		s.state = beforeFirstName
	}
	return len(s.nesting) <= maxNesting
}

func (s *modelScanner) close(opened byte) bool {
	last := len(s.nesting) - 1
	if s.nesting[last] != opened {
		return false
	}
	s.nesting = s.nesting[:last]
	if s.state = afterValue; last == 0 {
		s.state = afterObject
	}
	return true
}

// nextInString reads a character of a member's name or of a string. It keeps the characters of top-level names and of
// the model as they are written.
func (s *modelScanner) nextInString(c byte) bool {
	matters := s.isModel || s.state == inName && len(s.nesting) == 1
	if !s.nextInChar(c) {
		return false
	}
	switch {
	case s.escape > 0:
		if !s.nextEscaped(c) {
			return false
		}
	case c == '\\':
		s.escape = 1
	case c == '"':
		return s.endString(matters)
	}
	return !matters || s.keep(c)
}

// nextEscaped reads what follows a backslash: a letter, or u and four digits.
func (s *modelScanner) nextEscaped(c byte) bool {
	if s.escape > 1 {
		if s.escape--; s.escape == 1 {
			s.escape = 0
		}
		return isHex(c)
	}
	if s.escape = 0; c == 'u' {
		s.escape = 5
		return true
	}
	return strings.IndexByte(`"\/bfnrt`, c) >= 0
}

// nextInChar reads a byte of a character. It returns false for a control character and for invalid UTF-8: a server that
// reads them in another way could take a quote for a part of a character, or a part of a character for a quote.
func (s *modelScanner) nextInChar(c byte) bool {
	if len(s.char) == 0 && c < utf8.RuneSelf {
		return c >= ' '
	}
	if s.char = append(s.char, c); !utf8.FullRune(s.char) {
		return true
	}
	_, size := utf8.DecodeRune(s.char)
	s.char = s.char[:0]
	return size > 1
}

// endString ends a member's name or a string.
func (s *modelScanner) endString(matters bool) bool {
	wasName := s.state == inName
	if s.state = afterValue; wasName {
		s.state = beforeColon
	}
	if !matters {
		return true
	}
	quoted := `"` + string(s.token) + `"`
	var text string
	if json.Unmarshal([]byte(quoted), &text) != nil || !utf8.ValidString(quoted) || strings.ContainsRune(text, utf8.RuneError) {
		return false
	}
	if !wasName {
		s.isModel, s.model = false, quoted
		return text != ""
	}
	switch {
	case text == "model":
		s.isModel = true
		return !s.hasModel()
	case strings.EqualFold(text, "model"), strings.EqualFold(text, "models"), strings.EqualFold(text, "fallbacks"):
		return false // some providers take these members for the model, or for further models
	}
	return true
}

// keep adds a character to the token.
func (s *modelScanner) keep(c byte) bool {
	s.token = append(s.token, c)
	return len(s.token) <= maxToken
}

// isLiteral reports whether a character may be in a number, true, false or null.
func isLiteral(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == 'E' || c == '-' || c == '+' || c == '.'
}
