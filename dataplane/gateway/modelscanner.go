package gateway

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// modelScanner reads the top-level member `model` of a JSON object that comes in pieces, and checks that nothing else in it could be taken for
// that member. It keeps no more than a name, so that bodies can be of any length. It is stricter than JSON: names and numbers have a
// greatest length, and so has the depth.
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

// nextBetween reads what is neither in a name or a value nor white space.
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

// nextInString reads a character of a member's name or of a string. Those that matter are kept as they are written.
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

// nextInChar reads a byte of a character, and returns false if that is a control or not UTF-8: a server that reads it otherwise could take
// a quote for a part of a character, or a part of one for a quote.
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
		return false // what some providers take for the model, or for further ones
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
