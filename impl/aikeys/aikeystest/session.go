package aikeystest

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// The projects of every Service: Customer's Project and OtherProject, and the OtherCustomer's project of the same name.
const (
	Customer      = "acme"
	Project       = "web"
	OtherProject  = "ops"
	OtherCustomer = "globex"
)

// The users of every Service. Owner, Member and OtherMember are in Project and Stranger is not. Stranger owns
// OtherProject. OtherCustomer's project has an owner with the same id as Owner.
const (
	Owner       = "olga"
	Member      = "mia"
	OtherMember = "moe"
	Stranger    = "sam"
)

// Self means the session's own customer or project in a path.
const Self = "-"

func (s *Service) seed() {
	s.SetMember(Customer, Project, Owner, models.RoleOwner)
	s.SetMember(Customer, Project, Member, models.RoleMember)
	s.SetMember(Customer, Project, OtherMember, models.RoleMember)
	s.SetMember(Customer, OtherProject, Stranger, models.RoleOwner)
	s.SetMember(OtherCustomer, Project, Owner, models.RoleOwner)
}

// SetMember gives a user a role in a project, as the operator does, and creates the project if needed.
func (s *Service) SetMember(customer, project, user string, role models.Role) {
	modelstest.SetMember(s.t, s.Store, models.Caller{CustomerID: customer, ProjectID: project, UserID: user}, role)
}

// Session is a user's session by an API key, and the generated client that uses it.
type Session struct {
	*gen.ClientWithResponses
	// Token is the API key, TokenID the id to revoke it by.
	Token   string
	TokenID string

	service *Service
}

// caller identifies a session: its user and its default project.
type caller struct{ customer, project, user string }

// As returns a user's session with Customer's Project as default project. It always returns the same session.
func (s *Service) As(user string) *Session {
	return s.Session(Customer, Project, user)
}

// Session returns a user's session with the given default project. It always returns the same session.
func (s *Service) Session(customer, project, user string) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	who := caller{customer, project, user}
	if s.sessions[who] == nil {
		s.sessions[who] = s.NewSession(customer, project, user, time.Time{})
	}
	return s.sessions[who]
}

// NewSession creates an API key and returns its session. A zero expiry means never.
func (s *Service) NewSession(customer, project, user string, expires time.Time) *Session {
	now := time.Now()
	text, id, hash, err := auth.MintAPIKey(now)
	require.NoError(s.t, err)
	row := models.Token{ID: id, Hash: hash, CustomerID: customer, ProjectID: project, UserID: user, CreatedAt: now.UnixMicro()}
	if !expires.IsZero() {
		row.ExpiresAt = expires.UnixMicro()
	}
	require.NoError(s.t, s.Store.Transact(context.Background(), func(tx *models.Tx) error { return tx.CreateToken(row) }))
	s.Evidence.Hide(text)
	return &Session{ClientWithResponses: s.Client(text), Token: text, TokenID: id, service: s}
}

// Revoke ends the session's API key, as the operator does.
func (c *Session) Revoke(t testing.TB, customer, project string) {
	require.NoError(t, c.service.Store.Transact(t.Context(), func(tx *models.Tx) error {
		_, err := tx.RevokeToken(customer, project, c.TokenID, models.Event{
			ID: "evt_" + c.TokenID, CustomerID: customer, ProjectID: project, Type: models.EventTokenRevoked,
			Outcome: models.OutcomeAllowed, At: tx.Now, ActorMethod: "admin",
		})
		return err
	}))
}

// Client returns the generated client with a bearer token.
func (s *Service) Client(token string) *gen.ClientWithResponses {
	client, err := gen.NewClientWithResponses(s.URL, gen.WithHTTPClient(s.client),
		gen.WithRequestEditorFn(func(_ context.Context, req *http.Request) error {
			req.Header.Set("Authorization", "Bearer "+token)
			return nil
		}))
	require.NoError(s.t, err)
	return client
}

// Register registers a key in the session's project, and requires success.
func (c *Session) Register(t testing.TB, body gen.RegisterRequest) gen.Key {
	reply, err := c.RegisterKeyWithResponse(t.Context(), Self, Self, nil, body)
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, reply.StatusCode(), "%s", reply.Body)
	return reply.JSON201.Key
}

// RevokeKey revokes a key of the session's project, and requires success.
func (c *Session) RevokeKey(t testing.TB, id string) gen.Receipt {
	reply, err := c.RevokeKeyWithResponse(t.Context(), Self, Self, id, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
	return reply.JSON200.Receipt
}

// Shared returns a body that registers a project-level OpenAI key with a new secret, with the caller's changes.
func (s *Service) Shared(name string, changes ...func(*gen.RegisterRequest)) gen.RegisterRequest {
	body := gen.RegisterRequest{Provider: "openai", Name: name, Secret: gensecret.New("sk-" + s.Secret())}
	for _, change := range changes {
		change(&body)
	}
	return body
}

// Own is Shared for a user key.
func (s *Service) Own(name string, changes ...func(*gen.RegisterRequest)) gen.RegisterRequest {
	body := s.Shared(name, changes...)
	body.UserScope = new(true)
	return body
}
