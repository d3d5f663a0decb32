package dataplanetest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// Key is a key to register. What is left empty is filled in: acme, chat, openai, and what goes with OpenAI.
type Key struct {
	CustomerID, ProjectID, UserID, Provider string
	Secret, BaseURL, AuthStyle              string
}

// Credential is a caller's credential. What is left empty is filled in: acme, chat, alice.
type Credential struct {
	CustomerID, ProjectID, UserID string
	// Session makes it a session token, which has no id and can't be revoked.
	Session bool
	// Valid is how long it is valid; 0 means without limit.
	Valid time.Duration
}

// Policy is a project's. UserKeys is allow, require or forbid; empty means allow.
type Policy struct {
	UserKeys string
	NextKey  bool // whether failing keys are skipped
}

// The types of the changes.
const (
	keyRegistered = "key.registered"
	keyRevoked    = "key.revoked"
	keyFailing    = "key.failing"
	policySet     = "policy.set"
	memberSet     = "member.set"
	memberRemoved = "member.removed"
	tokenCreated  = "token.created"
	tokenRevoked  = "token.revoked"
)

type heldKey struct {
	Key
	id           string
	revoked, bad bool
}

type heldToken struct {
	Credential
	id      string
	until   time.Duration // 0 means without limit
	revoked bool
}

// state is what the control plane stores. Guarded by mu.
type state struct {
	nextID  int64
	nextTx  int64
	open    map[int64]bool // transactions that have begun and not ended
	history []gen.StreamMessage
	// forgotten has the transactions before which no stream can resume.
	forgotten []int64

	keys      []*heldKey
	tokens    map[string]*heldToken
	members   map[[3]string]bool
	policies  map[[2]string]Policy
	customers map[string]bool // nil serves every customer
}

func newState() state {
	return state{
		nextTx: 5000, open: map[int64]bool{}, tokens: map[string]*heldToken{}, members: map[[3]string]bool{},
		policies: map[[2]string]Policy{},
	}
}

// mint returns a new id with the form of a ULID.
func (s *state) mint() string {
	s.nextID++
	return fmt.Sprintf("%026d", s.nextID)
}

// begin returns a new transaction.
func (s *state) begin() int64 {
	s.nextTx++
	s.open[s.nextTx-1] = true
	return s.nextTx - 1
}

// commit ends a transaction and announces its change.
func (s *state) commit(tx int64, m gen.StreamMessage) {
	delete(s.open, tx)
	m.Tx = &tx
	s.history = append(s.history, m)
}

// position returns the position of what is committed now.
func (s *state) position() string {
	list := make([]int64, 0, len(s.open))
	for tx := range s.open {
		list = append(list, tx)
	}
	slices.Sort(list)
	xmin := s.nextTx
	texts := make([]string, 0, len(list))
	for _, tx := range list {
		xmin = min(xmin, tx)
		texts = append(texts, strconv.FormatInt(tx, 10))
	}
	return fmt.Sprintf("%d:%d:%s", xmin, s.nextTx, strings.Join(texts, ","))
}

// message returns an event about a project, and a user if there is one.
func message(kind, customer, project, user string) gen.StreamMessage {
	return gen.StreamMessage{Type: kind, CustomerID: &customer, ProjectID: &project, UserID: optional(user)}
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func orElse(text *string, fallback string) {
	if *text == "" {
		*text = fallback
	}
}

func (k *heldKey) message(kind string) gen.StreamMessage {
	m := message(kind, k.CustomerID, k.ProjectID, k.UserID)
	m.KeyID, m.Provider = &k.id, &k.Provider
	return m
}

func (s *state) key(id string) *heldKey {
	for _, k := range s.keys {
		if k.id == id {
			return k
		}
	}
	return nil
}

// choose returns the key that serves a user by the project's policy, and why; nil and the problem if none does.
func (s *state) choose(customer, project, user, provider string) (k *heldKey, reason string) {
	policy := s.policies[[2]string{customer, project}]
	newest := func(owner string) (found *heldKey, passed bool) {
		for _, k := range slices.Backward(s.keys) {
			is := Key{CustomerID: k.CustomerID, ProjectID: k.ProjectID, UserID: k.UserID, Provider: k.Provider}
			if k.revoked || is != (Key{CustomerID: customer, ProjectID: project, UserID: owner, Provider: provider}) {
				continue
			}
			if k.bad && policy.NextKey {
				passed = true
				continue
			}
			return k, passed
		}
		return nil, passed
	}
	why := func(k *heldKey, passed bool, reason string) (*heldKey, string) {
		if passed {
			reason = "next_key"
		}
		return k, reason
	}
	if user != "" && policy.UserKeys != "forbid" {
		if k, passed := newest(user); k != nil {
			return why(k, passed, "user_key")
		}
	}
	if policy.UserKeys == "require" {
		return nil, "user-key-required"
	}
	k, passed := newest("")
	switch {
	case k == nil:
		return nil, "no-key"
	case policy.UserKeys == "forbid" && user != "":
		return why(k, passed, "user_keys_forbidden")
	default:
		return why(k, passed, "project_key")
	}
}
