package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

// Words that the shell is offered. A shell takes them apart and puts them on command lines, so that a word with anything
// but the characters of ids is left out, whatever the server says, and so is what would be a flag.

// offered is a word with its description.
func offered(word, description string) []string {
	if word == "" || word[0] == '-' || strings.ContainsFunc(word, strange) {
		return nil
	}
	return []string{cobra.CompletionWithDesc(word, harmless(description))}
}

func strange(r rune) bool {
	return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", r)
}

// harmless keeps of a description what means nothing to any shell.
func harmless(description string) string {
	return strings.Map(func(r rune) rune {
		if unsafe(r) || strings.ContainsRune("`$\\\"'!;&|<>(){}[]*?~#%", r) {
			return '_'
		}
		return r
	}, description)
}

func offeredProviders(ctx context.Context, s *session) ([]string, error) {
	all, err := s.Providers().List(ctx)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, each := range all.Providers {
		found = append(found, offered(string(each.Slug), each.DisplayName)...)
	}
	return found, nil
}

func offeredMembers(ctx context.Context, s *session) ([]string, error) {
	all, err := s.Members().List(ctx, s.customer, s.project)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, each := range all.Members {
		found = append(found, offered(each.UserID, string(each.Role))...)
	}
	return found, nil
}

// mostOffered is how many keys are offered: the newest, in one page.
const mostOffered = 200

// offeredKeys offers keys' ids, of those in a state or of all.
func offeredKeys(state aikeysv1.KeyState) func(ctx context.Context, s *session) ([]string, error) {
	return func(ctx context.Context, s *session) ([]string, error) {
		options := []agentrouter.CallOption{agentrouter.PageSize(mostOffered)}
		if state != "" {
			options = append(options, agentrouter.InState(state))
		}
		page, err := s.AIKeys().With(options...).List(ctx, s.customer, s.project)
		if err != nil {
			return nil, err
		}
		var found []string
		for i := range page.Keys {
			k := &page.Keys[i]
			found = append(found, offered(k.ID, string(k.Provider)+" "+k.Name+" "+string(k.State))...)
		}
		return found, nil
	}
}

// profileNames completes to the profiles there are.
func (p *program) profileNames(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	p.quiet = true
	all, err := p.loadProfiles()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	for _, name := range all.names() {
		found = append(found, offered(name, all.Profiles[name].BaseURL)...)
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}
