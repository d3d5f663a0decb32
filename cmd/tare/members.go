package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) membersCommand() *cobra.Command {
	return p.group(&cobra.Command{
		Use:   "members",
		Short: "Who is in the project",
		Long:  "Who is in the project. An owner may write the project's keys, its policy and its members; a member their own keys.",
		Example: `  tare api members list
  tare api members set bob --role member
  tare api members remove bob`,
	}, p.membersListCommand(), p.membersSetCommand(), p.membersRemoveCommand())
}

func (p *program) membersListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the members",
		Long:    "Lists the project's members and their roles.",
		Example: "  tare api members list",
		Args:    cli.NoArguments(),
	}
	cmd.RunE = p.online(func(ctx context.Context, s *session, _ []string) error {
		ctx, cancel := p.within(ctx)
		defer cancel()
		reply, err := s.Members().List(ctx, s.customer, s.project)
		if err != nil {
			return err
		}
		return p.show(s, func() error { return p.printMembers(reply.Members) })
	})
	return cmd
}

func (p *program) printMembers(members []aikeysv1.Member) error {
	if len(members) == 0 {
		p.tell("The project has no members.")
		return nil
	}
	t := &table{columns: []column{
		{head: "USER", flexible: true}, {head: "ROLE"}, {head: "JOINED", spare: 2}, {head: "ROLE SET", spare: 1},
	}}
	now := time.Now()
	for i := range members {
		m := &members[i]
		look := plain
		if m.Role == aikeysv1.RoleOwner {
			look = bold
		}
		t.row(cell{m.UserID, plain}, cell{string(m.Role), look}, cell{since(m.CreatedAt, now), plain}, cell{since(m.UpdatedAt, now), plain})
	}
	return p.print(t)
}

func roles() []string { return []string{string(aikeysv1.RoleMember), string(aikeysv1.RoleOwner)} }

func (p *program) membersSetCommand() *cobra.Command {
	var role aikeysv1.Role
	cmd := &cobra.Command{
		Use:   "set <user>",
		Short: "Add a member, or change their role",
		Long:  "Adds a user of your customer to the project, or gives a member another role. Needs the project's owner.",
		Example: `  tare api members set bob --role member
  tare api members set carol --role owner`,
		Args:              oneArgument("the user's id"),
		ValidArgsFunction: first(p.live(offeredMembers)),
	}
	cmd.Flags().Var(&choice[aikeysv1.Role]{&role, roles()}, "role", "what they may do (required)")
	p.completesTo(cmd, "role", words(roles()...))
	cmd.RunE = p.online(func(ctx context.Context, s *session, args []string) error {
		if role == "" {
			return cli.Usagef("--role is required: owner or member")
		}
		ctx, cancel := p.within(ctx)
		defer cancel()
		reply, err := s.Members().Set(ctx, s.customer, s.project, args[0], role)
		if err != nil {
			return err
		}
		return p.show(s, func() error { return p.printMembers([]aikeysv1.Member{reply.Member}) })
	})
	return cmd
}

func (p *program) membersRemoveCommand() *cobra.Command {
	yes := false
	cmd := &cobra.Command{
		Use:   "remove <user>",
		Short: "Take a member out of the project",
		Long: `Takes a member out of the project: their sessions lose it at once, and their own keys serve nobody. Add them again, and
all of that works again. Needs the project's owner; the last owner can't be removed.

On a terminal tare asks first, unless --yes. Scripts are not asked.`,
		Example:           "  tare api members remove bob",
		Args:              oneArgument("the user's id"),
		ValidArgsFunction: first(p.live(offeredMembers)),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.RunE = p.online(func(ctx context.Context, s *session, args []string) error {
		user := args[0]
		if asking := p.prompts(); asking != nil && !yes {
			if err := asking.confirm(ctx, fmt.Sprintf("Take %q out of the project?", user)); err != nil {
				return err
			}
		}
		ctx, cancel := p.within(ctx)
		defer cancel()
		if _, err := s.Members().Remove(ctx, s.customer, s.project, user); err != nil {
			return err
		}
		return p.show(s, func() error { return p.line("Removed " + user + " from the project.") })
	})
	return cmd
}
