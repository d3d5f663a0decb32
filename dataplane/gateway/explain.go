package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// problems is where the types of problems lead, and their list is. No provider has that slug; a test reads the catalogue.
const problems = "/problems"

// explain answers those who follow a problem's type, or ask for the list of them: in plain text, for people, and without a
// credential, as whoever was refused may have none. It tells whether it has answered.
func explain(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	text := explanation(r.URL.EscapedPath())
	if text == "" {
		return false
	}
	w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
	w.Header()["X-Content-Type-Options"] = []string{"nosniff"}
	_, _ = w.Write([]byte(text)) // a reader that is gone can be told nothing
	return true
}

// explanation is what stands at a path; nothing at any other than those of types, and that of the list.
func explanation(path string) string {
	if path == problems || path == problems+"/" {
		return listOfTypes()
	}
	slug, ok := strings.CutPrefix(path, problems+"/")
	if !ok {
		return ""
	}
	var text strings.Builder
	var told []string
	for _, r := range rows() {
		switch {
		case r.slug != slug || slices.Contains(told, r.detail):
			continue
		case len(told) == 0:
			fmt.Fprintf(&text, "%s\n\nstatus  %d %s\ncode    %s\ntype    %s/%s\n\nIt says:\n",
				r.title, r.status, http.StatusText(r.status), r.code, problems, slug)
		}
		told = append(told, r.detail)
		fmt.Fprintf(&text, "  %s\n", r.detail)
	}
	if len(told) == 0 {
		return ""
	}
	fmt.Fprintf(&text, "\nWhat to do:\n  %s\n\nAll types: %s\n", advice()[slug], problems)
	return text.String()
}

func listOfTypes() string {
	var text strings.Builder
	text.WriteString("What this gateway refuses by itself; each type is the path of its explanation.\n\n")
	var told []string
	for _, r := range rows() {
		if !slices.Contains(told, r.slug) {
			told = append(told, r.slug)
			fmt.Fprintf(&text, "%d  %-34s  %s\n", r.status, problems+"/"+r.slug, r.title)
		}
	}
	return text.String()
}

// advice is what to do about each type of problem. Where a program of ours is to be run, it is an operator who does.
func advice() map[string]string {
	const mend, again = "Mend the request; as it is, it gets the same answer.", "Try again after the time in Retry-After; SDKs do."
	return map[string]string{ //nolint:gosec // it is about credentials, and holds none
		"unsafe-path":     mend,
		"invalid-project": mend + " Without the header, it is your session's own project.",
		"no-credential":   "Set your SDK's API key to your AgentRouter API key (ak_...). Who runs the service makes one.",
		"unknown-scheme":  mend,
		"two-credentials": "Look which header your program sets beside its SDK's, or a proxy in between adds, and leave one.",
		"caller-unauthenticated": "Compare it with what you were given: it begins with ak_, and a provider's own key is none. " +
			"Otherwise ask for a new one: aikeysd admin token create.",
		"forward-auth-refused": "In the proxy's configuration, set the header to the content of the gateway's " +
			"--forward-auth-secret-file.",
		"not-a-member":        "Ask an owner of the project to add you, or name another project in Agentrouter-Project.",
		"key-revoked":         "Register another key of this provider: tare api byok add.",
		"customer-not-served": "Ask who runs the gateways for the address of yours.",
		"user-key-required":   "Register a key of your own: tare api byok add --user-scope.",
		"no-key":              "Register a key of this provider: tare api byok add. What serves you, and why, says: tare api byok resolve.",
		"unknown-provider":    "See that your SDK's base URL ends in a provider's slug. The slugs are those of: tare api providers.",
		"method-not-allowed":  mend,
		"too-many-failures":   "Find what sends them: somebody at your address, or behind the same proxy, has a credential that is wrong.",
		"no-provider":         "Who runs Envoy sets it; docs/samples/envoy.yaml shows where.",
		"unsafe-destination":  "Who runs the gateway looks at AIKEYS_GATEWAY_UPSTREAM, which must be https, or http to its own machine.",
		"unsupported-auth":    "Use another provider, or this one without the gateway.",
		"provider-unreachable": "Nobody knows whether the provider has begun on it. Send it again if that does no harm; " +
			"the gateway's log has the cause.",
		"provider-timeout": "Nobody knows whether the provider has begun on it. Send it again if that does no harm, or have it " +
			"answer as a stream, which begins sooner.",
		"overloaded":              again,
		"gateway-unauthenticated": "Who runs the gateway gives it a credential that is good: aikeysd admin dataplane create.",
		"unavailable":             again + " If it stays, the gateway has lost its control plane; its /readyz says how it fares.",
		"given-up":                "Whoever sent it has left before the answer; look at their time limit.",
		"internal":                "Quote the request_id to those who run the gateway: their log has the cause under it.",
	}
}
