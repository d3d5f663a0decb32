package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/models"
)

func (p *program) memberCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "member",
		Short: "Add, list and remove the members of a project",
		Long: `Adds, lists and removes the members of a project. An owner registers and revokes the project's keys, writes its policy
and manages its members. A member uses its keys, and can have keys of their own.`,
		Example: `  aikeysd admin member set --customer acme --project chat --user alice --role owner
  aikeysd admin member list --customer acme --project chat`,
	}, p.memberSetCommand(), p.memberListCommand(), p.memberRemoveCommand())
}

func (p *program) memberSetCommand() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Add a member, or change their role",
		Long: `Adds a member, or changes their role. It makes the project if it is new. The first member of a project must be an
owner, and a project keeps at least one. If the SQLite database is missing, adding an owner makes it and prints its
path.`,
		Example: `  aikeysd admin member set --customer acme --project chat --user alice --role owner
  aikeysd admin member set --customer acme --project chat --user bob --role member`,
	}
	a := p.newProjectAdmin(cmd)
	a.addUserFlag(cmd, true)
	cmd.Flags().StringVar(&role, "role", "", "owner or member (required)")
	return a.command(cmd, func() error {
		a.mayCreate = models.Role(role) == models.RoleOwner
		if !models.Role(role).Valid() {
			return cli.Usagef("--role: must be owner or member")
		}
		return nil
	}, func(ctx context.Context) error {
		err := a.store.Transact(ctx, func(tx *models.Tx) error {
			return setMember(tx, a.operator, a.member(), models.Role(role))
		})
		if errors.Is(err, models.ErrLastOwner) {
			return fmt.Errorf("%w: %s needs one; give --role owner, or make another user an owner first", err, a.projectName())
		}
		if err != nil {
			return err
		}
		a.Note("%s is %s of %s", a.user, role, a.projectInDatabase())
		return nil
	})
}

// setMember gives a user a role in a project, and records the event. If the project does not exist, setMember creates
// it.
func setMember(tx *models.Tx, by operator, who models.Caller, role models.Role) error {
	if err := tx.EnsureProject(who.CustomerID, who.ProjectID); err != nil {
		return err
	}
	member, err := tx.SetMember(who.CustomerID, who.ProjectID, who.UserID, role)
	if err != nil {
		return err
	}
	event := by.event(tx, models.EventMemberSet, who)
	event.Role, event.Before, event.After = role, member.Before, &models.EventState{Role: role}
	return tx.AppendEvent(event)
}

func (p *program) memberListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the members of a project",
		Long:    `Lists the members of a project with their roles, by user id.`,
		Example: `  aikeysd admin member list --customer acme --project chat`,
	}
	a := p.newProjectAdmin(cmd)
	a.reads = true
	return a.command(cmd, nil, func(ctx context.Context) error {
		members, err := a.store.ListMembers(ctx, a.member(), "", 0)
		if err != nil {
			return err
		}
		table := a.NewTable("USER", "ROLE", "ADDED", "CHANGED")
		for _, m := range members {
			table.Row(m.UserID, string(m.Role), formatTime(m.CreatedAt), formatTime(m.UpdatedAt))
		}
		return table.Flush()
	})
}

func (p *program) memberRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "Remove a member from a project",
		Long: `Removes a member from a project. Their API keys no longer open the project, and their own provider keys no longer
serve: at the API from the next request on, at gateways within a second. Adding the user again brings neither back. An
owner can undo the removal for the project's grace, 30 days unless its policy says otherwise; then the keys are destroyed.
The last owner can't be removed.`,
		Example: `  aikeysd admin member remove --customer acme --project chat --user bob`,
	}
	a := p.newProjectAdmin(cmd)
	a.addUserFlag(cmd, true)
	var ids models.IDs
	return a.command(cmd, nil, func(ctx context.Context) error {
		err := a.store.Transact(ctx, func(tx *models.Tx) error {
			removal := models.Removal{ID: ids.Next("", time.Now()), CustomerID: a.customer, ProjectID: a.project, UserID: a.user}
			_, err := tx.SuspendMember(removal, a.operator.event(tx, models.EventMemberRemoved, a.member()))
			return err
		})
		switch {
		case errors.Is(err, models.ErrNotFound):
			return fmt.Errorf("%s is not a member of %s; see: %s", a.user, a.projectName(), a.projectCommand("member list"))
		case errors.Is(err, models.ErrLastOwner):
			return fmt.Errorf("%w: %s needs one; make another user an owner first", err, a.projectName())
		case err != nil:
			return err
		}
		a.Note("%s is no longer a member of %s", a.user, a.projectInDatabase())
		return nil
	})
}
