package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) membersCommand() *cobra.Command {
	return p.group(&cobra.Command{
		Use:   "members",
		Short: "List and change the project's members",
		Long:  "The project's members. Owners can change the project's keys, policy and members; other members, only their own keys.",
		Example: `  tare api members list
  tare api members set bob --role member
  tare api members remove bob`,
	}, p.membersListCommand(), p.membersSetCommand(), p.membersRemoveCommand(), p.membersImpactCommand(), p.membersRestoreCommand())
}

func (p *program) membersListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the members",
		Long:    "Lists the project's members and their roles.",
		Example: "  tare api members list",
		Args:    cli.NoArguments(),
		RunE: runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.ListMembersResponse, error) {
			return s.Members().List(ctx, s.customer, s.project)
		}, func(reply *aikeysv1.ListMembersResponse) error { return p.printMembers(reply.Members) }),
	}
}

func (p *program) printMembers(members []aikeysv1.Member) error {
	if len(members) == 0 {
		p.printNote("The project has no members.")
		return nil
	}
	t := &table{columns: []column{
		{head: "USER", canShrink: true}, {head: "ROLE"}, {head: "JOINED", dropRank: 2}, {head: "ROLE SET", dropRank: 1},
	}}
	now := time.Now()
	for i := range members {
		m := &members[i]
		look := plain
		if m.Role == aikeysv1.RoleOwner {
			look = bold
		}
		t.addRow(cell{m.UserID, plain}, cell{string(m.Role), look}, cell{relativeTime(m.CreatedAt, now), plain}, cell{relativeTime(m.UpdatedAt, now), plain})
	}
	return p.printTable(t)
}

func (p *program) membersSetCommand() *cobra.Command {
	var role aikeysv1.Role
	cmd := &cobra.Command{
		Use:   "set <user>",
		Short: "Add a member, or change their role",
		Long:  "Adds a user of your customer to the project, or changes a member's role. Owners only.",
		Example: `  tare api members set bob --role member
  tare api members set carol --role owner`,
		Args:              oneArgument("the user's id"),
		ValidArgsFunction: completeFirst(p.completeOnline(completeMembers)),
	}
	addChoice(cmd.Flags(), cmd, &role, "role", "", "the member's role (required)", aikeysv1.RoleMember, aikeysv1.RoleOwner)
	cmd.RunE = runCall(p, func(ctx context.Context, s *session, args []string) (*aikeysv1.MemberResponse, error) {
		if role == "" {
			return nil, cli.Usagef("--role is required: owner or member")
		}
		return s.Members().Set(ctx, s.customer, s.project, args[0], role)
	}, func(reply *aikeysv1.MemberResponse) error { return p.printMembers([]aikeysv1.Member{reply.Member}) })
	return cmd
}

func (p *program) membersRemoveCommand() *cobra.Command {
	graceDays := 0
	cmd := &cobra.Command{
		Use:   "remove <user>",
		Short: "Remove a member from the project, and wait until every data plane refuses them",
		Long: `Removes a member from the project. Their sessions lose access at once, and their own keys and API keys stop serving in it.
"tare api members restore" can undo that for --grace-days, or else for the days in the project's policy, 30 by default.
After that their own keys are destroyed, and adding the member again does not bring them back. "tare api members impact"
shows beforehand what would stop. Owners only; the last owner can't be removed.

tare waits for the receipt, which is complete when all data planes have confirmed. If it is not complete within --wait, at
most 30s, the exit code is 8, but the member is removed all the same.

tare asks for confirmation. Without a terminal, it needs --yes.`,
		Example: `  tare api members remove bob
  tare api members remove bob --grace-days 0`,
		Args:              oneArgument("the user's id"),
		ValidArgsFunction: completeFirst(p.completeOnline(completeMembers)),
	}
	p.addYes(cmd)
	cmd.Flags().IntVar(&graceDays, "grace-days", 0, "for how many `days`, at most 365, the removal can be undone; with 0 it can't (default: the policy's)")
	completeNothingFor(cmd, "grace-days")
	wait := addReceiptWait(cmd)
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, args []string) error {
		user := args[0]
		if err := p.confirm(ctx, fmt.Sprintf("Remove %q from the project?", user)); err != nil {
			return err
		}
		ctx, cancel, held := p.withHold(ctx, *wait)
		defer cancel()
		calls := s.Members().With(held, when(cmd.Flags().Changed("grace-days"), agentrouter.GraceDays(graceDays)))
		reply, err := calls.Remove(ctx, s.customer, s.project, user)
		if err != nil {
			return err
		}
		err = p.printResponse(s, func() error { return p.printRemoval(user, reply) })
		if err == nil && held != nil && reply.Receipt != nil && reply.Receipt.State != aikeysv1.ReceiptStateComplete {
			return &pendingError{id: user, done: removedDone, receipt: *reply.Receipt}
		}
		return err
	})
	return cmd
}

func (p *program) printRemoval(user string, r *aikeysv1.RemoveMemberResponse) error {
	line := "Removed " + user + " from the project."
	if r.Receipt == nil {
		return p.printLine(line)
	}
	line += fmt.Sprintf(" Suspended: %d keys of their own, %d API keys; until %s, tare api members restore %s undoes it.",
		r.SuspendedKeys, r.SuspendedTokens, formatTime(r.RestoreUntil, time.Now()), user)
	if err := p.printLine(line); err != nil {
		return err
	}
	return p.printDetails(receiptDetails(r.Receipt, time.Now()))
}

func (p *program) membersImpactCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "impact <user>",
		Short: "Show what the removal of a member would do",
		Long: `Shows what would stop at once if a member were removed, what would stay, and what you would have to do at the providers:
a person who registered a key may still have its secret. Owners only.`,
		Example:           "  tare api members impact bob",
		Args:              oneArgument("the user's id"),
		ValidArgsFunction: completeFirst(p.completeOnline(completeMembers)),
		RunE: runCall(p, func(ctx context.Context, s *session, args []string) (*aikeysv1.MemberImpactResponse, error) {
			return s.Members().Impact(ctx, s.customer, s.project, args[0])
		}, p.printImpact),
	}
}

func (p *program) printImpact(i *aikeysv1.MemberImpactResponse) error {
	stops := fmt.Sprintf("%d keys of their own, %d API keys in this project", i.Stops.OwnKeys, i.Stops.Tokens)
	stays := fmt.Sprintf("%d of the project's keys that they registered, %d API keys in other projects", i.Stays.ProjectKeys, i.Stays.TokensElsewhere)
	details := []detail{{"Member", cell{i.Member.UserID + ", " + string(i.Member.Role), bold}}, {"Stops", cell{stops, plain}}, {"Stays", cell{stays, plain}}}
	if i.LastOwner {
		details = append(details, detail{"Note", cell{"the last owner can't be removed", yellow}})
	}
	for _, at := range i.AtProviders {
		text := fmt.Sprintf("delete %d keys of their own", at.OwnKeys)
		if len(at.ReplaceKeys) > 0 {
			text += ", replace " + strings.Join(at.ReplaceKeys, " ")
		}
		details = append(details, detail{"At " + string(at.Provider), cell{text + "  " + at.KeyPageURL, plain}})
	}
	return p.printDetails(details)
}

func (p *program) membersRestoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restore <user>",
		Short: "Undo the removal of a member",
		Long: `Undoes the last removal of a user, if that is still possible: they are a member again, and what the removal suspended works
again, unless it was revoked since. Owners only.`,
		Example:           "  tare api members restore bob",
		Args:              oneArgument("the user's id"),
		ValidArgsFunction: completeNothing,
		RunE: runCall(p, func(ctx context.Context, s *session, args []string) (*aikeysv1.RestoreMemberResponse, error) {
			return s.Members().Restore(ctx, s.customer, s.project, args[0])
		}, func(r *aikeysv1.RestoreMemberResponse) error {
			return p.printLine(fmt.Sprintf("%s is in the project again, as %s. Restored: %d keys of their own, %d API keys.",
				r.Member.UserID, r.Member.Role, r.RestoredKeys, r.RestoredTokens))
		}),
	}
}
