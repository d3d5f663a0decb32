package agentrouter

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

var errNoObject = errors.New("not a JSON object")

// decode reads an object of the contract. As long as the contract has no field that the type lacks, that is one pass;
// else a second one puts the fields that the types lack into their Unknown.
func decode(object []byte, into any) error {
	if text := bytes.TrimLeft(object, " \t\r\n"); len(text) == 0 || text[0] != '{' {
		return errNoObject
	}
	strict := json.NewDecoder(bytes.NewReader(object))
	strict.DisallowUnknownFields()
	if strict.Decode(into) == nil && len(bytes.TrimSpace(object[strict.InputOffset():])) == 0 {
		return nil
	}
	target := reflect.ValueOf(into).Elem()
	target.SetZero() // of what the first pass read before it stopped
	if err := json.Unmarshal(object, into); err != nil {
		return err
	}
	keepUnknown(object, target)
	return nil
}

// keepUnknown follows a text that was read into a value, and keeps in each struct's Unknown what it has no field for.
func keepUnknown(text json.RawMessage, value reflect.Value) {
	switch value.Kind() {
	case reflect.Pointer:
		if !value.IsNil() {
			keepUnknown(text, value.Elem())
		}
	case reflect.Slice:
		var items []json.RawMessage
		if json.Unmarshal(text, &items) != nil {
			return
		}
		for i := range min(len(items), value.Len()) {
			keepUnknown(items[i], value.Index(i))
		}
	case reflect.Struct:
		keepUnknownFields(text, value)
	default: // nothing that could have fields of ours
	}
}

func keepUnknownFields(text json.RawMessage, value reflect.Value) {
	kept := value.FieldByName("Unknown")
	fields := aikeysv1.Unknown{}
	if !kept.IsValid() || json.Unmarshal(text, &fields) != nil {
		return // a time, say
	}
	for i := range value.NumField() {
		name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
		if sub, ok := fields[name]; ok {
			keepUnknown(sub, value.Field(i))
			delete(fields, name)
		}
	}
	if len(fields) > 0 {
		kept.Set(reflect.ValueOf(fields))
	}
}
