package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/models"
)

func (p *program) memberCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "member",
		Short: "Add, list and remove the members of a project",
		Long: `Adds, lists and removes the members of a project. An owner registers and revokes the project's keys, writes its policy
and manages its members; a member uses its keys, and has keys of their own.`,
		Example: `  aikeysd admin member set --customer acme --project chat --user alice --role owner
  aikeysd admin member list --customer acme --project chat`,
	}, p.memberSetCommand(), p.memberListCommand(), p.memberRemoveCommand())
}

func (p *program) memberSetCommand() *cobra.Command {
	var role string
	return p.newAdmin(&cobra.Command{
		Use:   "set",
		Short: "Add a member, or change their role",
		Long: `Adds a member, or changes their role. A project that is new is made; its first member must be an owner, and it keeps
at least one. A SQLite database that is not there is made for an owner, and the path told.`,
		Example: `  aikeysd admin member set --customer acme --project chat --user alice --role owner
  aikeysd admin member set --customer acme --project chat --user bob --role member`,
	}, adminSpec{user: required, flags: func(flags *pflag.FlagSet) {
		flags.StringVar(&role, "role", "", "owner or member (required)")
	}, check: func() error {
		if !models.Role(role).Valid() {
			return cli.Usagef("--role: must be owner or member")
		}
		return nil
	}, bootstraps: func() bool { return models.Role(role) == models.RoleOwner }, act: func(ctx context.Context, a *admin) error {
		err := a.store.Transact(ctx, func(tx *models.Tx) error {
			return setMember(tx, &a.ids, a.caller(), models.Role(role))
		})
		if errors.Is(err, models.ErrLastOwner) {
			return fmt.Errorf("%w: %s needs one; give --role owner, or make another user an owner first", err, a.where())
		}
		if err != nil {
			return err
		}
		a.Note("%s is %s of %s", a.user, role, a.place())
		return nil
	}})
}

// setMember gives a user their role, makes the project if it is new, and records it.
func setMember(tx *models.Tx, ids *models.IDs, who models.Caller, role models.Role) error {
	if err := tx.EnsureProject(who.CustomerID, who.ProjectID); err != nil {
		return err
	}
	if _, err := tx.SetMember(who.CustomerID, who.ProjectID, who.UserID, role); err != nil {
		return err
	}
	event := adminEvent(ids, tx, models.EventMemberSet, who)
	event.Role = role
	return tx.AppendEvent(event)
}

func (p *program) memberListCommand() *cobra.Command {
	return p.newAdmin(&cobra.Command{
		Use:     "list",
		Short:   "List the members of a project",
		Long:    `Lists the members of a project with their roles, by user id.`,
		Example: `  aikeysd admin member list --customer acme --project chat`,
	}, adminSpec{act: func(ctx context.Context, a *admin) error {
		if err := a.requireProject(ctx); err != nil {
			return err
		}
		members, err := a.store.ListMembers(ctx, a.caller(), "", 0)
		if err != nil {
			return err
		}
		table := a.NewTable("USER", "ROLE", "ADDED", "CHANGED")
		for _, m := range members {
			table.Row(m.UserID, string(m.Role), moment(m.CreatedAt), moment(m.UpdatedAt))
		}
		return table.Flush()
	}})
}

func (p *program) memberRemoveCommand() *cobra.Command {
	return p.newAdmin(&cobra.Command{
		Use:   "remove",
		Short: "Take a member out of a project",
		Long: `Takes a member out of a project. Their API keys open the project no more, and their own provider keys serve nobody:
at the API from the next request on, at gateways within a second.
The last owner can't be removed.`,
		Example: `  aikeysd admin member remove --customer acme --project chat --user bob`,
	}, adminSpec{user: required, act: func(ctx context.Context, a *admin) error {
		err := a.store.Transact(ctx, func(tx *models.Tx) error {
			if err := tx.RemoveMember(a.customer, a.project, a.user); err != nil {
				return err
			}
			return tx.AppendEvent(adminEvent(&a.ids, tx, models.EventMemberRemoved, a.caller()))
		})
		switch {
		case errors.Is(err, models.ErrNotFound):
			return fmt.Errorf("%s is no member of %s; see: %s", a.user, a.where(), a.command("member list"))
		case errors.Is(err, models.ErrLastOwner):
			return fmt.Errorf("%w: %s needs one; make another user an owner first", err, a.where())
		case err != nil:
			return err
		}
		a.Note("%s is no longer a member of %s", a.user, a.place())
		return nil
	}})
}
