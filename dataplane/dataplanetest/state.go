package dataplanetest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/internal/secret"
)

// The customer that everything in a ControlPlane belongs to, and the default project.
const (
	customer = "acme"
	chat     = "chat"
)

// state is what the control plane stores. Guarded by mu.
type state struct {
	nextID, nextTx int64
	open           []int64 // transactions that have begun and not ended, in order
	log            []change
	// forgotten is how many changes at the start of log are deleted: no stream can resume before them.
	forgotten int

	keys        []*key
	credentials map[string]*credential // by text
	members     map[[2]string]bool     // by project and user
}

// change is a message that is sent to every stream. tx is 0 if the message is not a change.
type change struct {
	tx   int64
	text []byte
}

// Key is a key to register. Empty fields get defaults: the project chat, the provider openai, and OpenAI's values.
type Key struct {
	ProjectID, UserID, Provider, Secret, BaseURL, AuthStyle string
	Routes                                                  []gen.Route
	Answers                                                 []gen.AnswerRule
	// Inject and Life are for keys that the control plane makes for a limited time.
	Inject []gen.InjectedHeader
	Life   time.Duration
	// Restrict are its restrictions. Data planes that do not enforce them do not get the key.
	Restrict *gen.Restrictions
	// Limit are its limits. Data planes that do not enforce them do not get the key.
	Limit *gen.KeyLimit
	// NextIfLimited reports whether, by the policy, the next key serves while this one is at a limit.
	NextIfLimited bool
	// AllOperations reports whether the policy lets the key serve the provider's administration.
	AllOperations bool
	// Ends is the time until the key expires; 0 means never.
	Ends time.Duration
}

type key struct {
	Key
	id                     string
	revoked, disabled, bad bool
	version                int
	endsAt                 time.Duration // 0 is never
}

// Credential is the credential of a caller whose project is chat.
type Credential struct {
	// UserID is the caller; empty means alice.
	UserID string
	// Session makes it a session token, which has no id and can't be revoked.
	Session bool
	// Valid is how long it is valid; 0 means without limit.
	Valid time.Duration
}

type credential struct {
	Credential
	id      string
	until   time.Duration // 0 means without limit
	revoked bool
}

// mint returns a new id with the form of a ULID. The caller holds mu.
func (s *state) mint() string {
	s.nextID++
	return fmt.Sprintf("%026d", s.nextID)
}

// position returns the position of what is committed now. The caller holds mu.
func (s *state) position() string {
	xmin := s.nextTx
	if len(s.open) > 0 {
		xmin = s.open[0]
	}
	return position.Position{Xmin: xmin, Xmax: s.nextTx, Open: s.open}.String()
}

// Begin begins a transaction. No position contains it until a change commits it.
func (cp *ControlPlane) Begin() (tx int64) {
	cp.update(func() {
		tx = cp.nextTx
		cp.nextTx++
		cp.open = append(cp.open, tx)
	})
	return tx
}

// commit calls do in a transaction, ends the transaction, and announces the message that do returns.
func (cp *ControlPlane) commit(tx int64, do func() gen.StreamMessage) int64 {
	cp.update(func() {
		m := do()
		m.Tx = &tx
		cp.open = slices.DeleteFunc(cp.open, func(other int64) bool { return other == tx })
		cp.log = append(cp.log, change{tx, frame(m)})
	})
	return tx
}

// Publish announces a change in a new transaction, and returns the transaction.
func (cp *ControlPlane) Publish(m gen.StreamMessage) (tx int64) {
	return cp.commit(cp.Begin(), func() gen.StreamMessage { return m })
}

// message returns an event about a project and, unless user is empty, about a user.
func message(kind, project, user string) gen.StreamMessage {
	return gen.StreamMessage{Type: kind, CustomerID: new(customer), ProjectID: &project, UserID: optional(user)}
}

func (k *key) message(kind string) gen.StreamMessage {
	m := message(kind, k.ProjectID, k.UserID)
	m.KeyID, m.Provider = &k.id, &k.Provider
	return m
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// RegisterKey registers a key and returns its id.
func (cp *ControlPlane) RegisterKey(k Key) (id string) {
	k.ProjectID, k.Provider = cmp.Or(k.ProjectID, chat), cmp.Or(k.Provider, "openai")
	k.BaseURL, k.AuthStyle = cmp.Or(k.BaseURL, "https://api.openai.com/v1"), cmp.Or(k.AuthStyle, "bearer")
	cp.commit(cp.Begin(), func() gen.StreamMessage {
		id = "byok_" + cp.mint()
		k.Secret = cmp.Or(k.Secret, "sk-EXAMPLE-"+id)
		cp.keys = append(cp.keys, &key{Key: k, id: id, version: 1, endsAt: cp.later(k.Ends)})
		return cp.key(id).message("key.registered")
	})
	return id
}

// later returns the time at which d will have passed, or 0 if d is 0.
func (cp *ControlPlane) later(d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	return cp.Now() + d
}

// SetDisabledIn disables or enables a key and commits the transaction.
func (cp *ControlPlane) SetDisabledIn(tx int64, id string, disabled bool) int64 {
	return cp.commit(tx, func() gen.StreamMessage {
		cp.key(id).disabled = disabled
		if disabled {
			return cp.key(id).message("key.disabled")
		}
		return cp.key(id).message("key.enabled")
	})
}

// RotateKey gives a key another secret as its next version. The previous version stops at once.
func (cp *ControlPlane) RotateKey(id, secret string) (tx int64) {
	return cp.RotateKeyWithin(id, secret, 0)
}

// RotateKeyWithin gives a key another secret as its next version, and keeps the previous version for the overlap.
func (cp *ControlPlane) RotateKeyWithin(id, secret string, overlap time.Duration) (tx int64) {
	return cp.commit(cp.Begin(), func() gen.StreamMessage {
		k := cp.key(id)
		m := k.message("key.rotated")
		m.Version = new(k.version)
		if overlap > 0 {
			m.RetiresInMs = new(overlap.Milliseconds())
		}
		k.Secret, k.version = secret, k.version+1
		return m
	})
}

// DestroyVersion announces that a version of a key is destroyed.
func (cp *ControlPlane) DestroyVersion(id string, version int) (tx int64) {
	return cp.commit(cp.Begin(), func() gen.StreamMessage {
		m := cp.key(id).message("key.version_destroyed")
		m.Version = &version
		return m
	})
}

// SetExpiry makes a key expire after d; 0 is never.
func (cp *ControlPlane) SetExpiry(id string, d time.Duration) (tx int64) {
	return cp.commit(cp.Begin(), func() gen.StreamMessage {
		cp.key(id).endsAt = cp.later(d)
		return cp.key(id).message("key.updated")
	})
}

// AnnounceExpiry announces that a key has expired.
func (cp *ControlPlane) AnnounceExpiry(id string) (tx int64) {
	return cp.commit(cp.Begin(), func() gen.StreamMessage { return cp.key(id).message("key.expired") })
}

// stop returns the refusal for a key that may serve nobody, and otherwise nil. The caller holds mu.
func (cp *ControlPlane) stop(k *key) *refusal {
	refused := func(problem string) *refusal {
		return &refusal{status: http.StatusForbidden, problem: problem, code: "permission_denied"}
	}
	switch {
	case k.revoked:
		return refused("key-revoked")
	case k.disabled:
		return refused("key-disabled")
	case k.endsAt != 0 && cp.Now() >= k.endsAt:
		return refused("key-expired")
	}
	return nil
}

// key returns a key that was registered, or nil. The caller holds mu.
func (s *state) key(id string) *key {
	i := slices.IndexFunc(s.keys, func(k *key) bool { return k.id == id })
	if i < 0 {
		return nil
	}
	return s.keys[i]
}

// RevokeKey revokes a key in a new transaction, and returns the transaction.
func (cp *ControlPlane) RevokeKey(id string) (tx int64) { return cp.RevokeKeyIn(cp.Begin(), id) }

// RevokeKeyIn revokes a key and commits the transaction.
func (cp *ControlPlane) RevokeKeyIn(tx int64, id string) int64 {
	return cp.commit(tx, func() gen.StreamMessage {
		cp.key(id).revoked = true
		return cp.key(id).message("key.revoked")
	})
}

// FailKey marks a key as failing, as if a provider had refused it. Other keys are preferred from now on.
func (cp *ControlPlane) FailKey(id string) (tx int64) {
	return cp.commit(cp.Begin(), func() gen.StreamMessage {
		cp.key(id).bad = true
		return cp.key(id).message("key.failing")
	})
}

// SetPolicy announces that the policy of the project chat was set.
func (cp *ControlPlane) SetPolicy() (tx int64) { return cp.Publish(message("policy.set", chat, "")) }

// SetMember adds a user to a project.
func (cp *ControlPlane) SetMember(project, user string) (tx int64) {
	return cp.commit(cp.Begin(), func() gen.StreamMessage {
		cp.members[[2]string{project, user}] = true
		return message("member.set", project, user)
	})
}

// RemoveMember removes a user from the project chat.
func (cp *ControlPlane) RemoveMember(user string) (tx int64) {
	return cp.commit(cp.Begin(), func() gen.StreamMessage {
		delete(cp.members, [2]string{chat, user})
		return message("member.removed", chat, user)
	})
}

// AddCredential adds a caller's credential, and makes the caller a member of the project.
func (cp *ControlPlane) AddCredential(text string, c Credential) {
	c.UserID = cmp.Or(c.UserID, "alice")
	cp.SetMember(chat, c.UserID)
	cp.commit(cp.Begin(), func() gen.StreamMessage {
		added := &credential{Credential: c}
		if !c.Session {
			added.id = cp.mint()
		}
		if c.Valid > 0 {
			added.until = cp.Now() + c.Valid
		}
		cp.credentials[text] = added
		m := message("token.created", chat, c.UserID)
		m.TokenID = optional(added.id)
		return m
	})
}

// RevokeCredential revokes a caller's API key.
func (cp *ControlPlane) RevokeCredential(text string) (tx int64) {
	return cp.commit(cp.Begin(), func() gen.StreamMessage {
		c := cp.credentials[text]
		c.revoked = true
		m := message("token.revoked", chat, c.UserID)
		m.TokenID = &c.id
		return m
	})
}

// Forget deletes the history: a stream that resumes from before it gets a reset.
func (cp *ControlPlane) Forget() { cp.update(func() { cp.forgotten = len(cp.log) }) }

func (cp *ControlPlane) fetch(w http.ResponseWriter, r *http.Request) {
	var request gen.FetchRequest
	if !decode(w, r, &request) {
		return
	}
	cp.mu.Lock()
	before, after := cp.before, cp.after
	cp.mu.Unlock()
	if !before.keep(r.Context()) {
		return
	}
	cp.mu.Lock()
	answer, refused := cp.answer(&request)
	cp.mu.Unlock()
	enforces := r.Header.Get("Agentrouter-Enforces")
	if answer != nil && (answer.Restrict != nil && !strings.Contains(enforces, "restrictions") || answer.Limit != nil && !strings.Contains(enforces, "limits")) {
		refused = &refusal{status: http.StatusNotFound, problem: "no-key", code: "not_found"}
	}
	if !after.keep(r.Context()) {
		return
	}
	if refused != nil {
		refused.send(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// answer returns the answer to a request: the newest key that may serve it. A user's own key comes before the
// project's. The caller holds mu.
func (cp *ControlPlane) answer(request *gen.FetchRequest) (*gen.FetchResponse, *refusal) {
	noKey := &refusal{status: http.StatusNotFound, problem: "no-key", code: "not_found"}
	if request.KeyID != nil {
		k := cp.key(*request.KeyID)
		if k == nil {
			return nil, noKey
		}
		if refused := cp.stop(k); refused != nil {
			return nil, refused
		}
		return cp.response(k, "by_id", nil), nil
	}
	project, caller, refused := cp.authenticate(request)
	if refused != nil {
		return nil, refused
	}
	owners := []string{""}
	if caller != nil {
		if !cp.members[[2]string{project, caller.UserID}] {
			return nil, &refusal{status: http.StatusForbidden, problem: "permission-denied", code: "permission_denied"}
		}
		owners = []string{caller.UserID, ""}
	}
	able, refused := cp.able(project, *request.Provider, owners)
	if len(able) == 0 {
		return nil, cmp.Or(refused, noKey)
	}
	next := slices.IndexFunc(able, func(k *key) bool { return !k.NextIfLimited || !slices.Contains(request.Limited, k.id) })
	if next > 0 {
		return cp.response(able[next], "next_key_limited", caller), nil
	}
	return cp.response(able[0], scopeOf(able[0])+"_key", caller), nil
}

// able returns the owners' keys that may serve, in order. If some of the owners' keys may serve nobody, refused is the
// refusal for the last of these. The caller holds mu.
func (cp *ControlPlane) able(project, provider string, owners []string) (able []*key, refused *refusal) {
	for _, owner := range owners {
		for _, k := range slices.Backward(cp.keys) {
			switch {
			case k.ProjectID != project || k.UserID != owner || k.Provider != provider:
			case cp.stop(k) != nil:
				refused = cp.stop(k)
			case !k.bad:
				able = append(able, k)
			}
		}
	}
	return able, refused
}

// authenticate returns the project and the user that a request is for; caller is nil if it is for no particular user.
// The caller holds mu.
func (cp *ControlPlane) authenticate(request *gen.FetchRequest) (project string, caller *gen.Caller, refused *refusal) {
	if request.ProjectID != nil {
		project = *request.ProjectID
	}
	if request.UserID != nil {
		caller = &gen.Caller{UserID: *request.UserID}
	}
	if request.Credential == nil {
		return project, caller, nil
	}
	c := cp.credentials[request.Credential.Reveal()]
	if c == nil || c.revoked || c.until != 0 && cp.Now() >= c.until {
		return "", nil, &refusal{status: http.StatusUnprocessableEntity, problem: "caller-unauthenticated", code: "unauthenticated"}
	}
	caller = &gen.Caller{UserID: c.UserID, TokenID: optional(c.id)}
	if c.until != 0 {
		caller.ValidMs = new((c.until - cp.Now()).Milliseconds())
	}
	return cmp.Or(project, chat), caller, nil
}

func scopeOf(k *key) string {
	if k.UserID != "" {
		return "user"
	}
	return "project"
}

func (cp *ControlPlane) response(k *key, reason string, caller *gen.Caller) *gen.FetchResponse {
	response := &gen.FetchResponse{
		KeyID: k.id, Version: k.version, CustomerID: customer, ProjectID: k.ProjectID, Provider: k.Provider,
		Scope: scopeOf(k), Reason: reason, Secret: secret.New(k.Secret), BaseURL: k.BaseURL, AuthStyle: k.AuthStyle, Routes: k.Routes, Answers: k.Answers,
		AsOf: cp.position(), Caller: caller, Inject: k.Inject, Restrict: k.Restrict, Limit: k.Limit,
	}
	if k.NextIfLimited && reason != "by_id" {
		response.OnLimited = new("next_key")
	}
	if k.AllOperations && reason != "by_id" {
		response.Operations = new("all")
	}
	if k.Life > 0 {
		response.ExpiresInMs, response.RefreshInMs = new(k.Life.Milliseconds()), new(k.Life.Milliseconds()*8/10)
	}
	if k.endsAt > 0 {
		left := new((k.endsAt - cp.Now()).Milliseconds())
		response.EndsInMs, response.ExpiresInMs, response.RefreshInMs = left, left, left
	}
	return response
}
