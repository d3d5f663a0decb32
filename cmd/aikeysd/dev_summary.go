package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"text/template"

	"github.com/agentrouter/aikeys/impl/providers"
)

// summary is what dev prints when it is ready. Its commands work as they stand in bash, one after the other, as often as
// one likes within one start: the last one frees the name that the first one takes. API keys go where curl blanks them in
// lists of processes.
const summary = `
AgentRouter AI Keys is ready.

  API       {{.BaseURL}}
  Pages     {{.BaseURL}}/docs
  Gateway   {{.GatewayURL}}
  Ops       {{.OpsURL}}  (/healthz /readyz /metrics)
  Project   {{.Customer}}/{{.Project}}
  Owner     {{.Owner}}  API key {{.OwnerKey}}
  Member    {{.Member}}    API key {{.MemberKey}}

Try it in another terminal. The secret is made up.

  # Register a key for the project
  curl -sS -X POST {{.BaseURL}}/v1/aikeys --oauth2-bearer '{{.OwnerKey}}' -H 'Content-Type: application/json' -d '{"provider":"{{.Provider}}","name":"{{.Name}}","secret":"{{.Secret}}"}'

  # Load the session, so that no command need hold an API key
  . {{.SessionFile}}

  # List the project's keys and your own
  curl -sS "$AGENTROUTER_BASE_URL/v1/aikeys" --oauth2-bearer "$AGENTROUTER_API_KEY"

  # Get the newest key, as the member
  KEY_ID=$(curl -sS "$AGENTROUTER_BASE_URL/v1/aikeys?page_size=1" --oauth2-bearer "$AGENTROUTER_API_KEY" | grep -o 'byok_[0-9A-Z]*')
  curl -sS "$AGENTROUTER_BASE_URL/v1/aikeys/$KEY_ID" --oauth2-bearer "$AGENTROUTER_MEMBER_API_KEY"

  # Have the gateway use it: the request of a provider's SDK, with your API key in the place of the provider's. The secret
  # is made up, so {{.Display}} answers 401; "aikeysd demo" shows a provider that knows it, without a network.
  curl -sS "$AGENTROUTER_GATEWAY_URL/{{.Provider}}/chat/completions" --oauth2-bearer "$AGENTROUTER_API_KEY" -H 'Content-Type: application/json' -d '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello"}]}'

  # Revoke it, and wait until every gateway has said that it has forgotten it
  curl -sS -X DELETE "$AGENTROUTER_BASE_URL/v1/aikeys/$KEY_ID?wait=2s" --oauth2-bearer "$AGENTROUTER_API_KEY"

Ctrl-C stops it. The next start has the same data and API keys.

`

// summaryProvider is the provider of the summary's key.
const summaryProvider = "openai"

func writeSummary(to io.Writer, session devSession, opsURL string) error {
	catalogue, err := providers.Load()
	if err != nil {
		return err
	}
	provider, ok := catalogue.Lookup(summaryProvider)
	if !ok {
		return fmt.Errorf("the catalogue lacks %s", summaryProvider)
	}
	return template.Must(template.New("summary").Parse(summary)).Execute(to, map[string]string{
		"BaseURL": session.baseURL, "OpsURL": opsURL, "GatewayURL": session.gatewayURL, "SessionFile": shellQuote(session.path),
		"Customer": devCustomer, "Project": devProject, "Owner": devOwner, "Member": devMember,
		"OwnerKey": session.ownerKey, "MemberKey": session.memberKey,
		"Provider": provider.Slug, "Display": provider.DisplayName, "Secret": provider.Example,
		"Name": "try-" + strings.ToLower(rand.Text()[:6]),
	})
}
