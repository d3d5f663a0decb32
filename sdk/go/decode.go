package agentrouter

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

var errNotObject = errors.New("not a JSON object")

// decode reads a JSON object of the API. If the object has only fields that the types know, one pass is enough. Otherwise
// a second pass keeps the other fields in the types' Unknown.
func decode(object []byte, into any) error {
	if text := bytes.TrimLeft(object, " \t\r\n"); len(text) == 0 || text[0] != '{' {
		return errNotObject
	}
	strict := json.NewDecoder(bytes.NewReader(object))
	strict.DisallowUnknownFields()
	if strict.Decode(into) == nil && len(bytes.TrimSpace(object[strict.InputOffset():])) == 0 {
		return nil
	}
	target := reflect.ValueOf(into).Elem()
	target.SetZero() // the first pass may have filled in some fields before it failed
	if err := json.Unmarshal(object, into); err != nil {
		return err
	}
	keepUnknown(object, target)
	return nil
}

// keepUnknown stores in Unknown the fields of a JSON text that its structs lack.
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
	default: // the other kinds have no fields
	}
}

func keepUnknownFields(text json.RawMessage, value reflect.Value) {
	kept := value.FieldByName("Unknown")
	fields := aikeysv1.Unknown{}
	if !kept.IsValid() || json.Unmarshal(text, &fields) != nil {
		return // a type such as time.Time
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
