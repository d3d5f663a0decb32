package agentrouter_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// vector is one entry of ../vectors/vectors.json; the README beside it says what each member means.
type vector struct {
	Name    string
	Call    string
	Args    map[string]any
	Options struct {
		MaxRetries *int `json:"max_retries"`
	}
	Exchanges []struct {
		Request struct {
			Method  string
			Path    string
			Query   map[string]string
			Headers map[string]string
			Body    any
		}
		Response struct {
			Status   int
			Headers  map[string]string
			Body     json.RawMessage
			BodyText string `json:"body_text"`
			Close    bool
			Truncate bool
		}
	}
	Result    any
	Error     map[string]any
	Partial   any
	Unknown   map[string]any
	ElapsedMS struct{ Min, Max int64 } `json:"elapsed_ms"`
}

func TestVectors(t *testing.T) {
	text, err := os.ReadFile("../vectors/vectors.json")
	must(t, err)
	var vectors []vector
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	must(t, decoder.Decode(&vectors))
	for _, op := range operations.All() { // the document has them all; the vectors, which people write, must cover each
		pattern := regexp.MustCompile("^" + regexp.MustCompile(`\{[a-z_]+\}`).ReplaceAllString(op.Path, "[^/]+") + "$")
		covered := false
		for _, v := range vectors {
			for _, e := range v.Exchanges {
				covered = covered || e.Request.Method == op.Method && pattern.MatchString(e.Request.Path)
			}
		}
		if !covered {
			t.Errorf("no vector of %s", op.ID)
		}
	}
	isUUID := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	sentinels := []error{
		agentrouter.ErrInvalidArgument, agentrouter.ErrUnauthenticated, agentrouter.ErrPermissionDenied,
		agentrouter.ErrNotFound, agentrouter.ErrAlreadyExists, agentrouter.ErrFailedPrecondition,
		agentrouter.ErrResourceExhausted, agentrouter.ErrUnavailable, agentrouter.ErrInternal,
	}
	parameters := map[string]string{ // of each method, after the context
		"aikeys.register":          "customer_id project_id provider name secret user_scope",
		"aikeys.get":               "customer_id project_id id",
		"aikeys.update":            "customer_id project_id id",
		"aikeys.revoke":            "customer_id project_id id",
		"aikeys.verify":            "customer_id project_id id",
		"aikeys.resolve":           "customer_id project_id provider",
		"aikeys.rotate":            "customer_id project_id id secret",
		"aikeys.versions":          "customer_id project_id id",
		"aikeys.activate_version":  "customer_id project_id id version",
		"aikeys.rollback":          "customer_id project_id id",
		"aikeys.destroy_version":   "customer_id project_id id version",
		"policy.set":               "customer_id project_id user_keys user_keys_by_provider on_bad_key",
		"members.set":              "customer_id project_id user_id role",
		"members.remove":           "customer_id project_id user_id",
		"members.impact":           "customer_id project_id user_id",
		"members.restore":          "customer_id project_id user_id",
		"leaks.find":               "customer_id project_id values",
		"leaks.revoke":             "customer_id project_id values source",
		"projects.list":            "",
		"tokens.list":              "",
		"tokens.create":            "name",
		"tokens.revoke":            "id",
		"tokens.revoke_in_project": "customer_id project_id id",
		"providers.list":           "",
		"providers.add_custom":     "customer_id project_id slug base_url",
		"providers.remove_custom":  "customer_id project_id slug",
		"whoami":                   "",
		"sign_in_options":          "",
	}
	options := map[string]any{ // by the name of the argument, for one call or for all
		"page_size": agentrouter.PageSize, "page_token": agentrouter.PageToken, "provider": agentrouter.OfProvider,
		"state": agentrouter.InState, "user_id": agentrouter.OfUser, "key_id": agentrouter.OfKey, "data_plane": agentrouter.OfDataPlane,
		"decision": agentrouter.WithDecision, "from": agentrouter.From, "to": agentrouter.To, "wait": agentrouter.Wait,
		"if_match": agentrouter.IfMatch, "idempotency_key": agentrouter.IdempotencyKey, "cascade": agentrouter.Cascade,
		"on_limited": agentrouter.OnLimited, "removal_grace_days": agentrouter.RemovalGraceDays, "grace_days": agentrouter.GraceDays,
		"explain": agentrouter.Explained, "limited": agentrouter.WhileLimited,

		"aikeys.register expires_at": agentrouter.ExpiresAt, "aikeys.register order": agentrouter.AtOrder,
		"aikeys.register weight": agentrouter.WithWeight, "aikeys.register restrict": agentrouter.Restricted,
		"aikeys.register limit": agentrouter.Limited,

		"aikeys.update name": agentrouter.SetName, "aikeys.update disabled": agentrouter.SetDisabled,
		"aikeys.update expires_at": agentrouter.SetExpiry, "aikeys.update expires_at=<nil>": agentrouter.ClearExpiry,
		"aikeys.update order": agentrouter.SetOrder, "aikeys.update weight": agentrouter.SetWeight,
		"aikeys.update weight=<nil>":              agentrouter.ClearWeight,
		"aikeys.update restrict=<nil>":            agentrouter.ClearRestrictions,
		"aikeys.update restrict.users":            agentrouter.RestrictUsers,
		"aikeys.update restrict.models":           agentrouter.RestrictModels,
		"aikeys.update restrict.operations":       agentrouter.RestrictOperations,
		"aikeys.update limit=<nil>":               agentrouter.ClearLimits,
		"aikeys.update limit.requests_per_minute": agentrouter.LimitRequestsPerMinute,
		"aikeys.update limit.requests_per_day":    agentrouter.LimitRequestsPerDay,
		"aikeys.update limit.concurrent":          agentrouter.LimitConcurrent,

		"aikeys.rotate activate=now": agentrouter.ActivateNow, "aikeys.rotate activate=manual": agentrouter.ActivateLater,
		"aikeys.rotate overlap": agentrouter.Overlap, "aikeys.rotate expires_at": agentrouter.NewExpiry,
		"aikeys.rotate expires_at=<nil>": agentrouter.NoExpiry,

		"tokens.create projects": agentrouter.ForProjects, "tokens.create expires_at": agentrouter.TokenExpiresAt,
		"tokens.create expires_at=<nil>": agentrouter.TokenNeverExpires,

		"providers.add_custom display_name": agentrouter.DisplayName, "providers.add_custom dialect": agentrouter.Speaks,
		"providers.add_custom auth_style=none": agentrouter.WithoutKey, "providers.add_custom header": agentrouter.KeyInHeader,
		"providers.add_custom auth_style=header": func() agentrouter.ProviderOption { return agentrouter.KeyInHeader("X-Llm-Key") },
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex // guards next and uuid
			next, uuid := 0, ""
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				if next >= len(v.Exchanges) {
					t.Errorf("one request too many: %s %s", r.Method, r.URL)
					w.WriteHeader(http.StatusTeapot)
					return
				}
				want, answer := v.Exchanges[next].Request, v.Exchanges[next].Response
				next++
				path, _, _ := strings.Cut(r.RequestURI, "?")
				if r.Method != want.Method || path != want.Path {
					t.Errorf("request %d is %s %s, not %s %s", next, r.Method, path, want.Method, want.Path)
				}
				query := map[string]string{}
				for name, values := range r.URL.Query() {
					query[name] = strings.Join(values, "|")
				}
				if !reflect.DeepEqual(query, want.Query) {
					t.Errorf("request %d has the query %v, not %v", next, query, want.Query)
				}
				for name, value := range want.Headers {
					got := r.Header.Get(name)
					if value == "$uuid" && isUUID.MatchString(got) && (uuid == "" || uuid == got) {
						uuid = got
					} else if got != value {
						t.Errorf("request %d has %s: %q, not %q", next, name, got, value)
					}
				}
				text, err := io.ReadAll(r.Body)
				var body any
				if err == nil && len(text) > 0 {
					err = json.Unmarshal(text, &body)
				}
				if err != nil || !reflect.DeepEqual(body, want.Body) {
					t.Errorf("request %d has the body %s (%v), not %v", next, text, err, want.Body)
				}

				if answer.Close {
					panic(http.ErrAbortHandler)
				}
				for name, value := range answer.Headers {
					w.Header().Set(name, value)
				}
				sent := []byte(answer.BodyText)
				if answer.Body != nil {
					sent = answer.Body
				}
				w.Header().Set("Content-Length", strconv.Itoa(len(sent)))
				w.WriteHeader(answer.Status)
				if answer.Truncate {
					_, _ = w.Write(sent[:len(sent)/2])
					panic(http.ErrAbortHandler)
				}
				_, _ = w.Write(sent)
			}))
			defer server.Close()
			settings := []agentrouter.Option{agentrouter.WithBaseURL(server.URL), agentrouter.WithAPIKey("ak_vector_key")}
			if v.Options.MaxRetries != nil {
				settings = append(settings, agentrouter.WithMaxRetries(*v.Options.MaxRetries))
			}
			client, err := agentrouter.New(t.Context(), settings...)
			must(t, err)

			start := time.Now()
			names, ok := parameters[v.Call]
			if !ok {
				names = "customer_id project_id"
			}
			result, partial, err := v.call(t, client, names, options)
			elapsed := time.Since(start).Milliseconds()
			mu.Lock() // if an answer never came, nothing else orders these accesses for the race detector
			requests := next
			mu.Unlock()

			if elapsed < v.ElapsedMS.Min || (v.ElapsedMS.Max > 0 && elapsed > v.ElapsedMS.Max) {
				t.Errorf("took %d ms", elapsed)
			}
			equal(t, requests, len(v.Exchanges))
			if v.Error == nil {
				must(t, err)
				equal(t, asJSON(t, result), v.Result)
				for path, want := range v.Unknown {
					equal(t, unknownAt(t, reflect.ValueOf(result), strings.Split(path, ".")), want)
				}
				return
			}
			if v.Partial != nil {
				equal(t, asJSON(t, partial), v.Partial)
			}
			if err == nil {
				t.Fatal("no error")
			}
			parts, _ := v.Error["message_contains"].([]any)
			for _, part := range parts {
				contains(t, err.Error(), fmt.Sprint(part))
			}
			switch v.Error["kind"] {
			case "connection":
				_ = as[*agentrouter.ConnectionError](t, err)
			case "argument":
				_ = as[*agentrouter.ArgumentError](t, err)
				is(t, err, agentrouter.ErrInvalidArgument)
			case "response":
				equal(t, asJSON(t, as[*agentrouter.Error](t, err).Status), v.Error["status"])
				is(t, err, agentrouter.ErrResponse)
			case "api":
				e := as[*agentrouter.Error](t, err)
				hasClass := slices.ContainsFunc(sentinels, func(s error) bool { return s.Error() == v.Error["class"] && errors.Is(err, s) })
				equal(t, hasClass, true)
				got := map[string]any{
					"code": e.Code, "status": e.Status, "type": e.Type, "title": e.Title, "detail": e.Detail, "request_id": e.RequestID,
					"errors": append([]aikeysv1.FieldError{}, e.Fields...), "unknown": e.Unknown,
				}
				for name, want := range v.Error {
					if value, ok := got[name]; ok {
						equal(t, asJSON(t, value), want)
					}
				}
				fields, _ := v.Error["errors"].([]any)
				equal(t, len(e.Fields), len(fields))
				seconds, _ := v.Error["retry_after"].(float64)
				equal(t, e.RetryAfter.Seconds(), seconds)
			default:
				t.Fatalf("unknown kind %q", v.Error["kind"])
			}
		})
	}
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

// call makes a vector's call. For example, "aikeys.destroy_version" becomes AIKeys().With(…).DestroyVersion(ctx, …).
// parameters names the args to pass as parameters, in their order. The constructors in options turn the other args into
// the method's options. If an iterator fails, partial has the items before the error.
func (v vector) call(t *testing.T, c *agentrouter.Client, parameters string, options map[string]any) (result, partial any, err error) {
	t.Helper()
	var callOptions []agentrouter.CallOption
	var own []reflect.Value // the options of the method's own type
	var add func(name string, value any)
	add = func(name string, value any) {
		constructor := cmp.Or(options[v.Call+" "+name+"="+fmt.Sprint(value)], options[v.Call+" "+name], options[name])
		if members, ok := value.(map[string]any); ok && constructor == nil {
			for member, value := range members {
				add(name+"."+member, value)
			}
			return
		}
		if constructor == nil {
			t.Fatalf("no option for %s of %s", name, v.Call)
		}
		function := reflect.ValueOf(constructor)
		var given []reflect.Value // empty for a constructor without parameters
		if function.Type().NumIn() > 0 {
			given = append(given, converted(t, function.Type().In(0), value))
		}
		call := function.Call
		if function.Type().IsVariadic() {
			call = function.CallSlice
		}
		made := call(given)[0]
		if option, ok := made.Interface().(agentrouter.CallOption); ok {
			callOptions = append(callOptions, option)
		} else {
			own = append(own, made)
		}
	}
	names := strings.Fields(parameters)
	for name, value := range v.Args {
		if !slices.Contains(names, name) {
			add(name, value)
		}
	}

	camelCase := func(text string) string {
		return regexp.MustCompile(`(^|_)[a-z]`).ReplaceAllStringFunc(text, func(s string) string { return strings.ToUpper(strings.TrimPrefix(s, "_")) })
	}
	receiver, name := reflect.ValueOf(c), v.Call
	if service, method, ok := strings.Cut(v.Call, "."); ok {
		receiver = receiver.MethodByName(strings.Replace(camelCase(service), "Aikeys", "AIKeys", 1)).Call(nil)[0]
		name = method
		if len(callOptions) > 0 {
			receiver = receiver.MethodByName("With").CallSlice([]reflect.Value{reflect.ValueOf(callOptions)})[0]
		}
	}
	name = cmp.Or(map[string]string{"whoami": "WhoAmI", "iterate": "All"}[name], camelCase(name))
	method := receiver.MethodByName(name)
	if !method.IsValid() {
		t.Fatalf("no such call: %s", v.Call)
	}
	arguments := []reflect.Value{reflect.ValueOf(t.Context())}
	for i, name := range names {
		arguments = append(arguments, converted(t, method.Type().In(i+1), v.Args[name]))
	}
	returned := method.Call(append(arguments, own...))
	if len(returned) == 2 {
		err, _ = returned[1].Interface().(error)
		if made, ok := returned[0].Interface().(*agentrouter.NewToken); ok && made != nil { // its API key does not print
			return map[string]any{"token": made.Token, "api_key": made.APIKey.Reveal()}, nil, err
		}
		return returned[0].Interface(), nil, err
	}
	items := []any{}
	for item, failed := range returned[0].Seq2() {
		if err, _ = failed.Interface().(error); err != nil {
			return nil, items, err
		}
		items = append(items, item.Interface())
	}
	return items, items, nil
}

// converted returns a value of a vector as a Go type.
func converted(t *testing.T, to reflect.Type, value any) reflect.Value {
	t.Helper()
	if to == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(fmt.Sprint(value))
		must(t, err)
		return reflect.ValueOf(d)
	}
	text, err := json.Marshal(value)
	must(t, err)
	into := reflect.New(to)
	must(t, json.Unmarshal(text, into.Interface()))
	return into.Elem()
}
