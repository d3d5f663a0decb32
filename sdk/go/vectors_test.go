package agentrouter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
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
	Exchanges []exchange
	Result    any
	Error     *vectorError
	Partial   any
	Unknown   map[string]any
	ElapsedMS struct{ Min, Max int64 } `json:"elapsed_ms"`
}

type exchange struct {
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

type vectorError struct {
	Kind            string
	Code            string
	Class           string
	Status          int
	Type            string
	Title           string
	Detail          string
	RequestID       string `json:"request_id"`
	Errors          []map[string]string
	RetryAfter      *int     `json:"retry_after"`
	MessageContains []string `json:"message_contains"`
	Unknown         map[string]any
}

func readVectors(t *testing.T) []vector {
	t.Helper()
	text, err := os.ReadFile("../vectors/vectors.json")
	must(t, err)
	var vectors []vector
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	must(t, decoder.Decode(&vectors))
	return vectors
}

func TestVectors(t *testing.T) {
	isUUID := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	sentinels := []error{
		agentrouter.ErrInvalidArgument, agentrouter.ErrUnauthenticated, agentrouter.ErrPermissionDenied,
		agentrouter.ErrNotFound, agentrouter.ErrAlreadyExists, agentrouter.ErrFailedPrecondition,
		agentrouter.ErrResourceExhausted, agentrouter.ErrUnavailable, agentrouter.ErrInternal,
	}
	for _, v := range readVectors(t) {
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
			options := []agentrouter.Option{agentrouter.WithBaseURL(server.URL), agentrouter.WithAPIKey("ak_vector_key")}
			if v.Options.MaxRetries != nil {
				options = append(options, agentrouter.WithMaxRetries(*v.Options.MaxRetries))
			}
			client, err := agentrouter.New(t.Context(), options...)
			must(t, err)

			start := time.Now()
			result, partial, err := call(t.Context(), client, v)
			elapsed := time.Since(start).Milliseconds()
			mu.Lock() // an answer that never came tells the race detector nothing
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
			want := *v.Error
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range want.MessageContains {
				contains(t, err.Error(), part)
			}
			switch want.Kind {
			case "connection":
				_ = as[*agentrouter.ConnectionError](t, err)
			case "argument":
				_ = as[*agentrouter.ArgumentError](t, err)
				is(t, err, agentrouter.ErrInvalidArgument)
			case "response":
				equal(t, as[*agentrouter.Error](t, err).Status, want.Status)
				is(t, err, agentrouter.ErrResponse)
			case "api":
				e := as[*agentrouter.Error](t, err)
				hasClass := slices.ContainsFunc(sentinels, func(s error) bool { return s.Error() == want.Class && errors.Is(err, s) })
				equal(t, hasClass, true)
				equal(t, e.Code, want.Code)
				equal(t, e.Status, want.Status)
				if want.RetryAfter != nil {
					equal(t, e.RetryAfter, time.Duration(*want.RetryAfter)*time.Second)
				} else {
					equal(t, e.RetryAfter, 0)
				}
				if want.RequestID != "" {
					equal(t, e.RequestID, want.RequestID)
				}
				if want.Type == "" {
					return // the response has no problem document
				}
				equal(t, e.Type, want.Type)
				equal(t, e.Title, want.Title)
				equal(t, e.Detail, want.Detail)
				equal(t, len(e.Fields), len(want.Errors))
				for i, field := range want.Errors {
					equal(t, e.Fields[i].Field, field["field"])
					equal(t, e.Fields[i].Message, field["message"])
				}
				for name, value := range want.Unknown {
					equal(t, asJSON(t, e.Unknown[name]), value)
				}
			default:
				t.Fatalf("unknown kind %q", want.Kind)
			}
		})
	}
}

// The core's operations come from the document, the vectors from people: none may be forgotten.
func TestVectorsCoverEveryOperation(t *testing.T) {
	vectors := readVectors(t)
	for _, op := range operations.All() {
		pattern := "^" + regexp.MustCompile(`\{[a-z_]+\}`).ReplaceAllString(op.Path, "[^/]+") + "$"
		covered := slices.ContainsFunc(vectors, func(v vector) bool {
			return slices.ContainsFunc(v.Exchanges, func(e exchange) bool {
				return e.Request.Method == op.Method && regexp.MustCompile(pattern).MatchString(e.Request.Path)
			})
		})
		if !covered {
			t.Errorf("no vector of %s", op.ID)
		}
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
	case "aikeys.update":
		result, err = keys.Update(ctx, customer, project, text("id"), changesOf(v.Args)...)
	case "aikeys.revoke":
		result, err = keys.Revoke(ctx, customer, project, text("id"))
	case "aikeys.rotate":
		result, err = keys.Rotate(ctx, customer, project, text("id"), text("secret"), rotateOptions(v.Args)...)
	case "aikeys.versions":
		result, err = keys.Versions(ctx, customer, project, text("id"))
	case "aikeys.activate_version":
		number, _ := v.Args["version"].(float64)
		result, err = keys.ActivateVersion(ctx, customer, project, text("id"), int(number))
	case "aikeys.rollback":
		result, err = keys.Rollback(ctx, customer, project, text("id"))
	case "aikeys.destroy_version":
		number, _ := v.Args["version"].(float64)
		result, err = keys.DestroyVersion(ctx, customer, project, text("id"), int(number))
	case "aikeys.verify":
		result, err = keys.Verify(ctx, customer, project, text("id"))
	case "aikeys.resolve":
		result, err = keys.Resolve(ctx, customer, project, aikeysv1.Provider(text("provider")))
	case "policy.get":
		result, err = c.Policy().Get(ctx, customer, project)
	case "policy.set":
		byProvider := aikeysv1.UserKeysByProvider{}
		given, _ := v.Args["user_keys_by_provider"].(map[string]any)
		for name, value := range given {
			byProvider[name] = aikeysv1.UserKeys(fmt.Sprint(value))
		}
		policy := c.Policy().With(agentrouter.OnLimited(aikeysv1.OnLimited(text("on_limited"))))
		if days, ok := v.Args["removal_grace_days"].(float64); ok {
			policy = policy.With(agentrouter.RemovalGraceDays(int(days)))
		}
		result, err = policy.Set(ctx, customer, project,
			aikeysv1.UserKeys(text("user_keys")), byProvider, aikeysv1.OnBadKey(text("on_bad_key")))
	case "events.list":
		result, err = events.List(ctx, customer, project)
	case "events.iterate":
		return collect(events.All(ctx, customer, project))
	case "fetches.list":
		result, err = c.Fetches().With(options...).List(ctx, customer, project)
	case "fetches.iterate":
		return collect(c.Fetches().With(options...).All(ctx, customer, project))
	case "usage.list":
		result, err = c.Usage().With(options...).List(ctx, customer, project)
	case "usage.iterate":
		return collect(c.Usage().With(options...).All(ctx, customer, project))
	case "members.list":
		result, err = members.List(ctx, customer, project)
	case "members.iterate":
		return collect(members.All(ctx, customer, project))
	case "members.set":
		result, err = members.Set(ctx, customer, project, text("user_id"), aikeysv1.Role(text("role")))
	case "members.remove":
		result, err = members.Remove(ctx, customer, project, text("user_id"))
	case "members.impact":
		result, err = members.Impact(ctx, customer, project, text("user_id"))
	case "members.restore":
		result, err = members.Restore(ctx, customer, project, text("user_id"))
	case "leaks.find":
		result, err = c.Leaks().With(options...).Find(ctx, customer, project, texts(v.Args["values"]))
	case "leaks.revoke":
		source, _ := v.Args["source"].(string)
		result, err = c.Leaks().With(options...).Revoke(ctx, customer, project, texts(v.Args["values"]), source)
	case "projects.list":
		result, err = c.Projects().With(options...).List(ctx)
	case "tokens.list":
		result, err = c.Tokens().With(options...).List(ctx)
	case "tokens.list_in_project":
		result, err = c.Tokens().With(options...).ListInProject(ctx, customer, project)
	case "tokens.create":
		result, err = createToken(ctx, c, v)
	case "tokens.revoke":
		result, err = c.Tokens().With(options...).Revoke(ctx, text("id"))
	case "tokens.revoke_in_project":
		result, err = c.Tokens().With(options...).RevokeInProject(ctx, customer, project, text("id"))
	case "providers.list":
		result, err = c.Providers().List(ctx)
	case "providers.list_custom":
		result, err = c.Providers().ListCustom(ctx, customer, project)
	case "providers.add_custom":
		result, err = c.Providers().AddCustom(ctx, customer, project, aikeysv1.Provider(text("slug")), text("base_url"), providerOptions(text)...)
	case "providers.remove_custom":
		result, err = c.Providers().RemoveCustom(ctx, customer, project, aikeysv1.Provider(text("slug")))
	case "sign_in_options":
		result, err = c.SignInOptions(ctx)
	case "whoami":
		result, err = c.WhoAmI(ctx)
	default:
		err = errors.New("no such call: " + v.Call)
	}
	return result, nil, err
}

func providerOptions(text func(name string) string) (options []agentrouter.ProviderOption) {
	if name := text("display_name"); name != "" {
		options = append(options, agentrouter.DisplayName(name))
	}
	if dialect := text("dialect"); dialect != "" {
		options = append(options, agentrouter.Speaks(aikeysv1.Dialect(dialect)))
	}
	switch text("auth_style") {
	case "header":
		options = append(options, agentrouter.KeyInHeader(text("header")))
	case "none":
		options = append(options, agentrouter.WithoutKey())
	}
	return options
}

// createToken returns a new API key, with its text as the service has sent it.
func createToken(ctx context.Context, c *agentrouter.Client, v vector) (any, error) {
	var options []agentrouter.CallOption
	if given, ok := v.Args["projects"].([]any); ok {
		var ids []string
		for _, id := range given {
			ids = append(ids, fmt.Sprint(id))
		}
		options = append(options, agentrouter.ForProjects(ids...))
	}
	if at, given := v.Args["expires_at"]; given && at == nil {
		options = append(options, agentrouter.TokenNeverExpires())
	} else if end, err := time.Parse(time.RFC3339, fmt.Sprint(at)); err == nil {
		options = append(options, agentrouter.TokenExpiresAt(end))
	}
	made, err := c.Tokens().With(options...).Create(ctx, fmt.Sprint(v.Args["name"]))
	if err != nil {
		return nil, err
	}
	return map[string]any{"token": made.Token, "api_key": made.APIKey.Reveal()}, nil
}

func texts(list any) (found []string) {
	values, _ := list.([]any)
	for _, value := range values {
		found = append(found, fmt.Sprint(value))
	}
	return found
}

// changesOf returns what an update changes.
func changesOf(args map[string]any) (changes []agentrouter.KeyChange) {
	if name, ok := args["name"].(string); ok {
		changes = append(changes, agentrouter.SetName(name))
	}
	if disabled, ok := args["disabled"].(bool); ok {
		changes = append(changes, agentrouter.SetDisabled(disabled))
	}
	switch at, given := args["expires_at"]; {
	case given && at == nil:
		changes = append(changes, agentrouter.ClearExpiry())
	case given:
		text, _ := at.(string)
		end, _ := time.Parse(time.RFC3339, text)
		changes = append(changes, agentrouter.SetExpiry(end))
	}
	switch lists, given := args["restrict"].(map[string]any); {
	case given:
		for name, change := range map[string]func(...string) agentrouter.KeyChange{
			"users": agentrouter.RestrictUsers, "models": agentrouter.RestrictModels, "operations": agentrouter.RestrictOperations,
		} {
			if list, ok := lists[name]; ok {
				changes = append(changes, change(texts(list)...))
			}
		}
	default:
		if _, ok := args["restrict"]; ok {
			changes = append(changes, agentrouter.ClearRestrictions())
		}
	}
	switch limits, given := args["limit"].(map[string]any); {
	case given:
		for name, change := range map[string]func(int) agentrouter.KeyChange{
			"requests_per_minute": agentrouter.LimitRequestsPerMinute, "requests_per_day": agentrouter.LimitRequestsPerDay, "concurrent": agentrouter.LimitConcurrent,
		} {
			if limit, ok := limits[name]; ok {
				number, _ := limit.(float64) // null is 0
				changes = append(changes, change(int(number)))
			}
		}
	default:
		if _, ok := args["limit"]; ok {
			changes = append(changes, agentrouter.ClearLimits())
		}
	}
	if order, ok := args["order"].(float64); ok {
		changes = append(changes, agentrouter.SetOrder(int(order)))
	}
	switch weight, given := args["weight"]; {
	case given && weight == nil:
		changes = append(changes, agentrouter.ClearWeight())
	case given:
		number, _ := weight.(float64)
		changes = append(changes, agentrouter.SetWeight(int(number)))
	}
	return changes
}

// rotateOptions returns what a rotation is told beside the secret.
func rotateOptions(args map[string]any) (options []agentrouter.RotateOption) {
	switch args["activate"] {
	case "now":
		options = append(options, agentrouter.ActivateNow())
	case "manual":
		options = append(options, agentrouter.ActivateLater())
	}
	if text, ok := args["overlap"].(string); ok {
		d, _ := time.ParseDuration(text)
		options = append(options, agentrouter.Overlap(d))
	}
	if at, given := args["expires_at"]; given {
		text, _ := at.(string)
		if end, err := time.Parse(time.RFC3339, text); err == nil {
			return append(options, agentrouter.NewExpiry(end))
		}
		options = append(options, agentrouter.NoExpiry())
	}
	return options
}

// registerOptions returns the options of a register or a resolve.
func registerOptions(v vector) (options []agentrouter.CallOption) {
	if key, ok := v.Args["idempotency_key"].(string); ok {
		options = append(options, agentrouter.IdempotencyKey(key))
	}
	if end, err := time.Parse(time.RFC3339, fmt.Sprint(v.Args["expires_at"])); err == nil {
		options = append(options, agentrouter.ExpiresAt(end))
	}
	if order, ok := v.Args["order"].(float64); ok {
		options = append(options, agentrouter.AtOrder(int(order)))
	}
	if weight, ok := v.Args["weight"].(float64); ok {
		options = append(options, agentrouter.WithWeight(int(weight)))
	}
	if lists, ok := v.Args["restrict"].(map[string]any); ok {
		options = append(options, agentrouter.Restricted(aikeysv1.Restrictions{
			Users: texts(lists["users"]), Models: texts(lists["models"]), Operations: texts(lists["operations"]),
		}))
	}
	if limits, ok := v.Args["limit"].(map[string]any); ok {
		perMinute, _ := limits["requests_per_minute"].(float64)
		concurrent, _ := limits["concurrent"].(float64)
		options = append(options, agentrouter.Limited(aikeysv1.KeyLimit{RequestsPerMinute: int(perMinute), Concurrent: int(concurrent)}))
	}
	if v.Args["explain"] == true {
		options = append(options, agentrouter.Explained())
	}
	if user, ok := v.Args["user_id"].(string); ok {
		options = append(options, agentrouter.OfUser(user))
	}
	if key, ok := v.Args["limited"].(string); ok {
		options = append(options, agentrouter.WhileLimited(key))
	}
	return options
}

func callOptions(v vector) []agentrouter.CallOption {
	if v.Call == "aikeys.register" || v.Call == "aikeys.resolve" {
		return registerOptions(v)
	}
	var options []agentrouter.CallOption
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
		case "user_id":
			if strings.HasPrefix(v.Call, "usage.") || strings.HasPrefix(v.Call, "fetches.") {
				options = append(options, agentrouter.OfUser(text))
			}
		case "key_id":
			options = append(options, agentrouter.OfKey(text))
		case "data_plane":
			options = append(options, agentrouter.OfDataPlane(text))
		case "decision":
			options = append(options, agentrouter.WithDecision(aikeysv1.FetchDecision(text)))
		case "from", "to":
			at, _ := time.Parse(time.RFC3339, text)
			options = append(options, map[string]func(time.Time) agentrouter.CallOption{"from": agentrouter.From, "to": agentrouter.To}[name](at))
		case "grace_days":
			options = append(options, agentrouter.GraceDays(int(number)))
		case "cascade":
			options = append(options, agentrouter.Cascade())
		case "idempotency_key":
			options = append(options, agentrouter.IdempotencyKey(text))
		case "if_match":
			options = append(options, agentrouter.IfMatch(text))
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
