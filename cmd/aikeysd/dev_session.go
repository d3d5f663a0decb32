package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/secretfile"
	"github.com/agentrouter/aikeys/models"
)

// The project that dev makes, its users, and the name of its gateway's credential.
const (
	devCustomer  = "acme"
	devProject   = "chat"
	devOwner     = "alice"
	devMember    = "bob"
	devDataPlane = "dev"
)

// The variables of a session file. SDKs read the first two.
const (
	envBaseURL   = "AGENTROUTER_BASE_URL"
	envAPIKey    = "AGENTROUTER_API_KEY" //nolint:gosec // G101: the name of a variable
	envMemberKey = "AGENTROUTER_MEMBER_API_KEY"
	envGateway   = "AGENTROUTER_GATEWAY_URL"
)

// devSession holds what a developer needs to call the service. It is stored in a file that a shell can load.
type devSession struct {
	path                string // of the file
	baseURL, gatewayURL string
	ownerKey, memberKey string
}

// seedSession creates the project and its two members if they are missing, and writes the session file with an API key
// for each member. It reuses an API key of the last start if the key still works, and otherwise creates a new one.
func (s *service) seedSession(ctx context.Context, path, gatewayURL string) (devSession, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return devSession{}, err
	}
	session, err := readSession(path)
	if err != nil {
		return devSession{}, err
	}
	session.baseURL, session.gatewayURL = s.api.URL(), gatewayURL
	if session.ownerKey, err = s.seedUser(ctx, devOwner, models.RoleOwner, session.ownerKey); err != nil {
		return devSession{}, err
	}
	if session.memberKey, err = s.seedUser(ctx, devMember, models.RoleMember, session.memberKey); err != nil {
		return devSession{}, err
	}
	return session, session.write()
}

// seedUser gives a user a role, unless the user already has any role. It returns an API key of the user: lastKey if
// that still works, otherwise a new API key.
func (s *service) seedUser(ctx context.Context, user string, role models.Role, lastKey string) (string, error) {
	who := models.Caller{CustomerID: devCustomer, ProjectID: devProject, UserID: user}
	known, err := s.sessions.Authenticate(ctx, "Bearer "+lastKey)
	if err != nil && !errors.Is(err, auth.ErrUnauthenticated) {
		return "", err
	}
	reuse := err == nil && known.CustomerID == devCustomer && known.ProjectID == devProject && known.UserID == user
	by := newOperator(s.getenv)
	key := apiKey{text: lastKey}
	err = s.store.Transact(ctx, func(tx *models.Tx) error {
		_, err := tx.Role(who)
		if errors.Is(err, models.ErrNotMember) {
			err = setMember(tx, by, who, role)
		}
		if err == nil && !reuse {
			key, err = createToken(tx, by, who, 0)
		}
		return err
	})
	return key.text, err
}

// seedGatewayToken writes a credential for the gateway into a file, unless the file has one from the last start that
// still works.
func (s *service) seedGatewayToken(ctx context.Context, path string) error {
	last, err := secretfile.Read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("gateway's credential: %w", err)
	}
	dataPlanes := auth.New(auth.Config{DataPlanes: s.store})
	_, err = dataPlanes.Authenticate(ctx, "Bearer "+strings.TrimSpace(string(last)))
	if err == nil || !errors.Is(err, auth.ErrUnauthenticated) {
		return err
	}
	err = s.store.Transact(ctx, func(tx *models.Tx) error {
		_, err := tx.RevokeDataPlane(devDataPlane, "aikeysd dev") // its credential is lost
		return err
	})
	if err != nil && !errors.Is(err, models.ErrNotFound) {
		return err
	}
	token, _, err := createDataPlane(ctx, s.store, models.DataPlane{Name: devDataPlane}, 0)
	if err != nil {
		return err
	}
	return writePrivate(path, token+"\n")
}

// readSession reads the session file of the last start. If there is no file, the session has only its path.
func readSession(path string) (devSession, error) {
	content, err := secretfile.Read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return devSession{}, fmt.Errorf("session file: %w", err)
	}
	session := devSession{path: path}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		switch name {
		case envBaseURL:
			session.baseURL = value
		case envAPIKey:
			session.ownerKey = value
		case envMemberKey:
			session.memberKey = value
		case envGateway:
			session.gatewayURL = value
		}
	}
	return session, nil
}

func (d devSession) write() error {
	return writePrivate(d.path, fmt.Sprintf("# Written by aikeysd dev; load it with: . %s\nexport %s=%s\nexport %s=%s\nexport %s=%s\nexport %s=%s\n",
		shellQuote(d.path), envBaseURL, d.baseURL, envAPIKey, d.ownerKey, envMemberKey, d.memberKey, envGateway, d.gatewayURL))
}

// writePrivate replaces a file in one step. Only its owner can read it.
func writePrivate(path, content string) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".session-*.tmp") // has mode 0600
	if err != nil {
		return fmt.Errorf("session file: %w", err)
	}
	_, err = file.WriteString(content)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name()) // the first error says more
		return fmt.Errorf("session file: %w", err)
	}
	return nil
}

// shellQuote quotes text as one word of a POSIX shell.
func shellQuote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// summary is what dev prints when everything is ready. Its commands can be pasted into bash unchanged, one after the
// other. They can be repeated any number of times, because the last command frees the name that the first command
// takes. They pass API keys in an option whose value curl hides from process lists.
const summary = `
AgentRouter AI Keys is ready.

  Console   {{.BaseURL}}/console  (sign in with an API key below)
  API       {{.BaseURL}}
  Docs      {{.BaseURL}}/docs
  Gateway   {{.GatewayURL}}
  Ops       {{.OpsURL}}  (/healthz /readyz /metrics)
  Project   {{.Customer}}/{{.Project}}
  Owner     {{.Owner}}  API key {{.OwnerKey}}
  Member    {{.Member}}    API key {{.MemberKey}}

Try it in another terminal. The secret is made up.

  # Register a key for the project
  curl -sS -X POST {{.BaseURL}}/v1/aikeys --oauth2-bearer '{{.OwnerKey}}' -H 'Content-Type: application/json' -d '{"provider":"{{.Provider}}","name":"{{.Name}}","secret":"{{.Secret}}"}'

  # Load the session, so that the next commands need no API key in them
  . {{.SessionFile}}

  # List the project's keys and your own
  curl -sS "$AGENTROUTER_BASE_URL/v1/aikeys" --oauth2-bearer "$AGENTROUTER_API_KEY"

  # Get the newest key, as the member
  KEY_ID=$(curl -sS "$AGENTROUTER_BASE_URL/v1/aikeys?page_size=1" --oauth2-bearer "$AGENTROUTER_API_KEY" | grep -o 'byok_[0-9A-Z]*')
  curl -sS "$AGENTROUTER_BASE_URL/v1/aikeys/$KEY_ID" --oauth2-bearer "$AGENTROUTER_MEMBER_API_KEY"

  # Use it through the gateway: send the request that a provider's SDK sends, with your API key instead of the provider's.
  # {{if .StandIn}}A stand-in on this machine answers. For the real providers: bin/aikeysd dev --stand-in=false{{else}}The secret is made up, so {{.Display}} answers 401.{{end}}
  curl -sSN "$AGENTROUTER_GATEWAY_URL/{{.Provider}}/chat/completions" --oauth2-bearer "$AGENTROUTER_API_KEY" -H 'Content-Type: application/json' -d '{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Hello"}]}'

  # Revoke it, and wait until every gateway has confirmed that it no longer uses it
  curl -sS -X DELETE "$AGENTROUTER_BASE_URL/v1/aikeys/$KEY_ID?wait=2s" --oauth2-bearer "$AGENTROUTER_API_KEY"

Ctrl-C stops it. The next start has the same data and API keys.

`

// summaryProvider is the provider of the key in the summary's commands.
const summaryProvider = "openai"

func writeSummary(to io.Writer, session devSession, opsURL string, standIn bool) error {
	catalogue, err := providers.Load()
	if err != nil {
		return err
	}
	provider, ok := catalogue.Lookup(summaryProvider)
	if !ok {
		return fmt.Errorf("the catalogue lacks %s", summaryProvider)
	}
	return template.Must(template.New("summary").Parse(summary)).Execute(to, map[string]any{
		"BaseURL": session.baseURL, "OpsURL": opsURL, "GatewayURL": session.gatewayURL, "SessionFile": shellQuote(session.path),
		"Customer": devCustomer, "Project": devProject, "Owner": devOwner, "Member": devMember,
		"OwnerKey": session.ownerKey, "MemberKey": session.memberKey,
		"Provider": provider.Slug, "Display": provider.DisplayName, "Secret": provider.Example, "StandIn": standIn,
		"Name": "try-" + strings.ToLower(rand.Text()[:6]),
	})
}

// mockSummary is what dev prints when a mock is ready.
const mockSummary = `
The mock of AgentRouter AI Keys is ready.

  API       {{.BaseURL}}
  Examples  {{.BaseURL}}/
  Document  {{.BaseURL}}/openapi.yaml
  Console   {{.BaseURL}}/console  (sign in with {{.OwnerKey}})

It is the service itself, with example data in {{.Data}}: delete that folder to start over. Any bearer token acts as {{.Owner}}, an owner,
and the token {{.Member}} as {{.Member}}, a member. Try it in another terminal:

  # List the keys: there is one in each state
  curl -sS --oauth2-bearer any {{.BaseURL}}/v1/aikeys

  # Register a key, as your program will
  curl -sS --oauth2-bearer any {{.BaseURL}}/v1/aikeys -H 'Content-Type: application/json' -d '{"provider":"openai","name":"{{.Name}}","secret":"sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0001"}'

  # Get a certain answer: an example of the document
  curl -sS --oauth2-bearer any {{.BaseURL}}/v1/aikeys -H 'Prefer: code=403, example=not_an_owner'

Then point your client at it: AGENTROUTER_BASE_URL={{.BaseURL}} AGENTROUTER_API_KEY=any. For a page of another origin, name the origin as
for the service: AIKEYS_CORS_ORIGINS=http://localhost:5173

Ctrl-C stops it. The next start has the same data.

`

func writeMockSummary(to io.Writer, session devSession, data string) error {
	return template.Must(template.New("mock").Parse(mockSummary)).Execute(to, map[string]any{
		"BaseURL": session.baseURL, "Owner": devOwner, "Member": devMember, "OwnerKey": session.ownerKey, "Data": shellQuote(data),
		"Name": "try-" + strings.ToLower(rand.Text()[:6]),
	})
}
