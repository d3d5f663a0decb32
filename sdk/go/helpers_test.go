package agentrouter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

// The module requires nothing, so that the reference's examples run without a go.sum: hence no assertion library.

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if n, ok := want.(int); ok && reflect.TypeOf(got) == reflect.TypeFor[time.Duration]() {
		want = time.Duration(n)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

func contains(t *testing.T, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Fatalf("%q does not contain %q", text, part)
	}
}

func lacks(t *testing.T, text, part string) {
	t.Helper()
	if strings.Contains(text, part) {
		t.Fatalf("%q contains %q", text, part)
	}
}

func is(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("%v is not %v", err, target)
	}
}

func as[T error](t *testing.T, err error) T {
	t.Helper()
	found, ok := errors.AsType[T](err)
	if !ok {
		t.Fatalf("%v (%T) is no %T", err, err, found)
	}
	return found
}

func asJSON(t *testing.T, value any) any {
	t.Helper()
	text, err := json.Marshal(value)
	must(t, err)
	var plain any
	must(t, json.Unmarshal(text, &plain))
	return plain
}

// unknownAt follows a path of names and indexes through a result to a field that its types do not know.
func unknownAt(t *testing.T, v reflect.Value, path []string) any {
	t.Helper()
	v = reflect.Indirect(v)
	if v.Kind() == reflect.Slice {
		i, err := strconv.Atoi(path[0])
		must(t, err)
		return unknownAt(t, v.Index(i), path[1:])
	}
	if len(path) == 1 {
		unknown, ok := v.FieldByName("Unknown").Interface().(aikeysv1.Unknown)
		equal(t, ok, true)
		value, ok := unknown[path[0]]
		equal(t, ok, true)
		return asJSON(t, value)
	}
	for i := range v.NumField() {
		if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); name == path[0] {
			return unknownAt(t, v.Field(i), path[1:])
		}
	}
	t.Fatalf("%s has no %s", v.Type(), path[0])
	return nil
}

// call makes a vector's call. Of an iterator it gives the items, as far as it came.
func call(ctx context.Context, c *agentrouter.Client, v vector) (result, partial any, err error) {
	text := func(name string) string {
		s, _ := v.Args[name].(string)
		return s
	}
	customer, project, options := text("customer_id"), text("project_id"), callOptions(v)
	keys, members := c.AIKeys().With(options...), c.Members().With(options...)
	events := c.Events().With(options...)
	switch v.Call {
	case "aikeys.register":
		own, _ := v.Args["user_scope"].(bool)
		provider := aikeysv1.Provider(text("provider"))
		result, err = keys.Register(ctx, customer, project, provider, text("name"), text("secret"), own)
	case "aikeys.get":
		result, err = keys.Get(ctx, customer, project, text("id"))
	case "aikeys.list":
		result, err = keys.List(ctx, customer, project)
	case "aikeys.iterate":
		return collect(keys.All(ctx, customer, project))
	case "aikeys.revoke":
		result, err = keys.Revoke(ctx, customer, project, text("id"))
	case "aikeys.resolve":
		result, err = c.AIKeys().Resolve(ctx, customer, project, aikeysv1.Provider(text("provider")))
	case "policy.get":
		result, err = c.Policy().Get(ctx, customer, project)
	case "policy.set":
		byProvider := aikeysv1.UserKeysByProvider{}
		given, _ := v.Args["user_keys_by_provider"].(map[string]any)
		for name, value := range given {
			byProvider[name] = aikeysv1.UserKeys(fmt.Sprint(value))
		}
		result, err = c.Policy().Set(ctx, customer, project,
			aikeysv1.UserKeys(text("user_keys")), byProvider, aikeysv1.OnBadKey(text("on_bad_key")))
	case "events.list":
		result, err = events.List(ctx, customer, project)
	case "events.iterate":
		return collect(events.All(ctx, customer, project))
	case "members.list":
		result, err = members.List(ctx, customer, project)
	case "members.iterate":
		return collect(members.All(ctx, customer, project))
	case "members.set":
		result, err = members.Set(ctx, customer, project, text("user_id"), aikeysv1.Role(text("role")))
	case "members.remove":
		result, err = members.Remove(ctx, customer, project, text("user_id"))
	case "providers.list":
		result, err = c.Providers().List(ctx)
	case "whoami":
		result, err = c.WhoAmI(ctx)
	default:
		err = errors.New("no such call: " + v.Call)
	}
	return result, nil, err
}

func callOptions(v vector) []agentrouter.CallOption {
	var options []agentrouter.CallOption
	if v.Call == "aikeys.register" || v.Call == "aikeys.resolve" {
		if key, ok := v.Args["idempotency_key"].(string); ok {
			options = append(options, agentrouter.IdempotencyKey(key))
		}
		return options
	}
	for name, value := range v.Args {
		text, _ := value.(string)
		number, _ := value.(float64)
		switch name {
		case "page_size":
			options = append(options, agentrouter.PageSize(int(number)))
		case "page_token":
			options = append(options, agentrouter.PageToken(text))
		case "provider":
			options = append(options, agentrouter.OfProvider(aikeysv1.Provider(text)))
		case "state":
			options = append(options, agentrouter.InState(aikeysv1.KeyState(text)))
		case "wait":
			d, _ := time.ParseDuration(text)
			options = append(options, agentrouter.Wait(d))
		}
	}
	return options
}

func collect[T any](items iter.Seq2[T, error]) (result, partial any, err error) {
	found := []T{}
	for item, err := range items {
		if err != nil {
			return nil, found, err
		}
		found = append(found, item)
	}
	return found, found, nil
}

func printed(value any) string { return fmt.Sprintf("%+v", value) }

func write(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}
