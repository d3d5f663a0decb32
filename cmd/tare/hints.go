package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// The hints below ask the service again to be more helpful. When that fails too, there is no hint.

func (p *program) hintsOnSession() []string {
	if p.session == nil || p.session.profile == "" {
		return []string{"The API key comes from " + apiKeyVariable + ". Set another, or unset it and log in with: tare login"}
	}
	again := "Log in again with: tare login --profile " + p.session.profile
	if p.session.keyFrom == givenKey {
		return []string{"Is it the whole key, and of this installation? " + again}
	}
	return []string{fmt.Sprintf("The API key comes from the %s. %s", p.session.keyFrom, again)}
}

// hintsOnRole says who one is, and who could do it.
func (p *program) hintsOnRole(ctx context.Context) []string {
	s := p.session
	if s == nil {
		return nil
	}
	ctx, cancel := briefly(ctx)
	defer cancel()
	me, err := s.WhoAmI(ctx)
	if err != nil {
		return nil
	}
	place := me.CustomerID + "/" + me.ProjectID
	members, err := s.Members().List(ctx, s.customer, s.project)
	if err != nil {
		return []string{
			fmt.Sprintf("You are %s, and no member of that project. The project of your session is %s.", me.UserID, place),
		}
	}
	role, owners := "a member", []string{}
	for _, m := range members.Members {
		if m.Role == aikeysv1.RoleOwner {
			owners = append(owners, m.UserID)
		}
		if m.UserID == me.UserID && m.Role == aikeysv1.RoleOwner {
			role = "an owner"
		}
	}
	if s.project != "" {
		place = s.project
	}
	const most = 5
	if more := len(owners) - most; more > 0 {
		owners = append(owners[:most], fmt.Sprintf("%d more", more))
	}
	return []string{fmt.Sprintf("You are %s, %s of %s. Its owners: %s.", me.UserID, role, place, strings.Join(owners, ", "))}
}

// noSuchPath is the type of the problem that a path is not in the API.
const noSuchPath = "/problems/no-such-path"

func (p *program) hintsOnAbsence(e *agentrouter.Error) []string {
	if e.Type == "" || e.Type == noSuchPath { // whoever answered has no such API
		return []string{"Is " + p.address() + " the address of AgentRouter AI Keys, without a path?"}
	}
	return []string{"See what there is with: tare api byok list, tare api members list"}
}

// onFields says what is wrong with each field, and which provider may have been meant.
func (p *program) onFields(ctx context.Context, e *agentrouter.Error) (says string, hints []string) {
	complaints := make([]string, 0, len(e.Fields))
	for _, field := range e.Fields {
		switch {
		case field.Field == "provider" && p.meant != "":
			complaints = append(complaints, errNoProvider(p.meant).Error())
			hints = append(hints, p.hintOnProvider(ctx))
		case strings.HasSuffix(field.Message, "."):
			complaints = append(complaints, cli.OneLine(field.Message)) // a sentence of its own
		default:
			complaints = append(complaints, cli.OneLine(field.Field+" "+field.Message))
		}
	}
	if len(complaints) == 0 {
		return cli.OneLine(e.Detail), nil
	}
	return strings.Join(complaints, "\n"), hints
}

// errNoProvider names the provider that was meant only if it is a word: it may be a secret in the wrong place.
func errNoProvider(meant string) error {
	if len(meant) > 20 || strings.ContainsFunc(meant, strange) {
		return cli.Usagef("the service knows no such provider")
	}
	return cli.Usagef("the service knows no provider %q", meant)
}

func (p *program) hintOnProvider(ctx context.Context) string {
	ctx, cancel := briefly(ctx)
	defer cancel()
	all, err := p.session.Providers().List(ctx)
	if err != nil {
		return hintOnSlug(p.meant, nil)
	}
	return hintOnSlug(p.meant, slugsOf(all.Providers))
}

func slugsOf(providers []aikeysv1.ProviderInfo) []string {
	slugs := make([]string, len(providers))
	for i, each := range providers {
		slugs[i] = string(each.Slug)
	}
	return slugs
}

// hintOnSlug helps who named a provider that there is not.
func hintOnSlug(meant string, slugs []string) string {
	switch near := nearest(meant, slugs); {
	case len(slugs) == 0:
		return "The providers are listed by: tare api providers"
	case near != "":
		return "Did you mean " + near + "? There are " + strings.Join(slugs, ", ") + "."
	default:
		return "There are " + strings.Join(slugs, ", ") + "."
	}
}

// nearest returns the word that is most like the one meant, or nothing if none is.
func nearest(meant string, words []string) string {
	best, bestDistance := "", 1+max(1, len(meant)/3)
	for _, word := range words {
		if d := distance(strings.ToLower(meant), word); d < bestDistance {
			best, bestDistance = word, d
		}
	}
	if best != "" {
		return best
	}
	i := slices.IndexFunc(words, func(word string) bool {
		return len(meant) > 2 && strings.HasPrefix(word, strings.ToLower(meant))
	})
	if i < 0 {
		return ""
	}
	return words[i]
}

// distance is Levenshtein's, by bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
