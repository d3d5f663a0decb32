package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) listCommand() *cobra.Command {
	var provider string
	var state aikeysv1.KeyState
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the project's keys and your own",
		Long: `Lists the project's keys and your own, newest first, revoked ones too. In a narrow terminal columns are left out; get
and -o json show everything.`,
		Example: `  tare api byok list
  tare api byok list --provider openai --state active
  tare api byok list -o json`,
		Args: cli.NoArguments("--provider", "--state"),
	}
	cmd.Flags().StringVar(&provider, "provider", "", "only keys of this provider, by its `slug`")
	cmd.Flags().Var(&choice[aikeysv1.KeyState]{&state, states()}, "state", "only keys in this state")
	p.completesTo(cmd, "provider", p.live(offeredProviders))
	p.completesTo(cmd, "state", words(states()...))
	cmd.RunE = p.online(func(ctx context.Context, s *session, _ []string) error {
		p.meant = provider
		var options []agentrouter.CallOption
		if provider != "" {
			options = append(options, agentrouter.OfProvider(aikeysv1.Provider(provider)))
		}
		if state != "" {
			options = append(options, agentrouter.InState(state))
		}
		ctx, cancel := p.within(ctx)
		defer cancel()
		reply, err := s.AIKeys().With(options...).List(ctx, s.customer, s.project)
		if err != nil {
			return err
		}
		return p.show(s, func() error { return p.printKeys(reply.Keys, len(options) > 0) })
	})
	return cmd
}

func states() []string {
	return []string{string(aikeysv1.KeyStateActive), string(aikeysv1.KeyStateRevoked)}
}

func (p *program) printKeys(keys []aikeysv1.Key, filtered bool) error {
	if len(keys) == 0 {
		if filtered {
			p.tell("There are no such keys.")
		} else {
			p.tell("There are no keys yet. Register one: tare api byok add --provider openai --name openai-prod")
		}
		return nil
	}
	t := &table{columns: []column{
		{head: "ID"}, {head: "PROVIDER"}, {head: "NAME", flexible: true}, {head: "SECRET", spare: 1}, {head: "SCOPE", spare: 2},
		{head: "STATE"}, {head: "CREATED", spare: 4}, {head: "BY", spare: 5}, {head: "USED", spare: 3},
	}}
	now := time.Now()
	for i := range keys {
		k := &keys[i]
		look, state := plain, green
		if k.State == aikeysv1.KeyStateRevoked {
			look, state = dim, dim
		}
		t.row(cell{k.ID, look}, cell{string(k.Provider), look}, cell{k.Name, look}, cell{suffix(k), look}, cell{scope(k), look},
			cell{string(k.State), state}, cell{since(k.CreatedAt, now), look}, cell{k.CreatedBy, look}, used(k, now))
	}
	return p.print(t)
}

func suffix(k *aikeysv1.Key) string {
	if k.DisplaySuffix == "" {
		return ""
	}
	return "…" + k.DisplaySuffix
}

func scope(k *aikeysv1.Key) string {
	if k.UserScope {
		return "own"
	}
	return "project"
}

// failing tells whether the provider has refused the key since it was last used with success.
func failing(k *aikeysv1.Key) bool {
	return k.LastFailure != nil && k.LastFailure.At.After(k.LastUsedAt)
}

// used is the last use for a table.
func used(k *aikeysv1.Key, now time.Time) cell {
	if failing(k) {
		return cell{fmt.Sprintf("refused %d, %s", k.LastFailure.Status, since(k.LastFailure.At, now)), red}
	}
	return cell{since(k.LastUsedAt, now), plain}
}

func (p *program) getCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "get <id>",
		Short:             "Show a key",
		Long:              "Shows what is known of a key, active or revoked, but for the secret. A revoked one has the receipt of that.",
		Example:           "  tare api byok get byok_01M83VVAHV8M2T5K7N9R4W1XYZ",
		Args:              oneArgument("the key's id"),
		ValidArgsFunction: first(p.live(offeredKeys(""))),
	}
	cmd.RunE = p.online(func(ctx context.Context, s *session, args []string) error {
		id, err := keyID(args[0])
		if err != nil {
			return err
		}
		ctx, cancel := p.within(ctx)
		defer cancel()
		reply, err := s.AIKeys().Get(ctx, s.customer, s.project, id)
		if err != nil {
			return err
		}
		return p.show(s, func() error { return p.printKey(&reply.Key) })
	})
	return cmd
}

func (p *program) printKey(k *aikeysv1.Key) error {
	now := time.Now()
	look := green
	if k.State == aikeysv1.KeyStateRevoked {
		look = red
	}
	owner := "the project's"
	if k.UserScope {
		owner = k.CreatedBy + "'s own"
	}
	details := []detail{
		{"ID", cell{k.ID, plain}},
		{"Provider", cell{string(k.Provider), plain}},
		{"Name", cell{k.Name, plain}},
		{"Secret", cell{suffix(k), plain}},
		{"State", cell{string(k.State), look}},
		{"Scope", cell{owner, plain}},
		{"Project", cell{k.CustomerID + "/" + k.ProjectID, plain}},
		{"Created", cell{stamp(k.CreatedAt, now) + " by " + k.CreatedBy, plain}},
		{"Last used", cell{stamp(k.LastUsedAt, now), plain}},
	}
	if f := k.LastFailure; f != nil {
		look := plain
		if failing(k) {
			look = red
		}
		details = append(details, detail{"Last refused", cell{fmt.Sprintf("%s with %d", stamp(f.At, now), f.Status), look}})
	}
	if !k.RevokedAt.IsZero() {
		details = append(details, detail{"Revoked", cell{stamp(k.RevokedAt, now) + " by " + k.RevokedBy, plain}})
	}
	if r := k.Receipt; r != nil {
		details = append(details, detail{"Receipt", receiptCell(r, now)})
	}
	return p.printDetails(details)
}
