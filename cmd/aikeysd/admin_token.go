package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/models"
)

func (p *program) tokenCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "token",
		Short: "Create, list and revoke members' API keys",
		Long: `Creates, lists and revokes the API keys with which members call the API. An API key is shown once, when it is created:
the database holds only a hash of it.`,
		Example: `  aikeysd admin token create --customer acme --project chat --user alice --expires 30d
  aikeysd admin token list --customer acme --project chat`,
	}, p.tokenCreateCommand(), p.tokenListCommand(), p.tokenRevokeCommand())
}

func (p *program) tokenCreateCommand() *cobra.Command {
	var expires string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create an API key for a member",
		Long: `Creates an API key for a member, and prints nothing else on standard output, so that it can go straight into a file or
a secret store; notes go to standard error. The API key is shown only this once.`,
		Example: `  (umask 077; aikeysd admin token create --customer acme --project chat --user alice > alice.token)
  aikeysd admin token create --customer acme --project chat --user ci --expires 30d`,
	}
	a := p.newProjectAdmin(cmd)
	a.addUserFlag(cmd, true)
	cmd.Flags().StringVar(&expires, "expires", "0", "`lifetime` of the API key in hours or days, such as 720h or 30d; 0 does not expire")
	var life time.Duration
	return a.command(cmd, func() (err error) {
		life, err = lifetime(expires)
		return err
	}, func(ctx context.Context) error {
		var key apiKey
		err := a.store.Transact(ctx, func(tx *models.Tx) (err error) {
			key, err = createToken(tx, a.operator, a.member(), life)
			return err
		})
		if errors.Is(err, models.ErrNotMember) {
			return a.notMember(ctx)
		}
		if err != nil {
			return err
		}
		a.Note("API key %s of %s for %s; expires: %s. It is shown only once.", key.id, a.user, a.projectInDatabase(), formatTime(key.expiresAt))
		return a.Say("%s", key.text)
	})
}

// notMember returns an error with the command that makes the user a member. If the project has no members yet, the
// command makes the user an owner.
func (a *admin) notMember(ctx context.Context) error {
	exists, err := a.projectExists(ctx)
	if err != nil {
		return err
	}
	role := models.RoleMember
	if !exists {
		role = models.RoleOwner
	}
	return fmt.Errorf("%s is not a member of %s, so the API key would open nothing; first run: %s --user %s --role %s",
		a.user, a.projectName(), a.projectCommand("member set"), a.user, role)
}

// apiKey is a new API key. Its text is not stored anywhere.
type apiKey struct {
	text, id  string
	expiresAt int64 // microseconds since 1970; 0 is never
}

// createToken makes an API key for a member, stores its hash, and records the event. It returns ErrNotMember if the
// user is not a member. With a life of 0, the API key does not expire.
func createToken(tx *models.Tx, by operator, who models.Caller, life time.Duration) (apiKey, error) {
	if _, err := tx.Role(who); err != nil {
		return apiKey{}, err
	}
	now := time.UnixMicro(tx.Now)
	text, id, hash, err := auth.MintAPIKey(now)
	if err != nil {
		return apiKey{}, err
	}
	token := models.Token{
		ID: id, Hash: hash, CustomerID: who.CustomerID, ProjectID: who.ProjectID, UserID: who.UserID, CreatedAt: tx.Now,
	}
	if life > 0 {
		token.ExpiresAt = now.Add(life).UnixMicro()
	}
	if err := tx.CreateToken(token); err != nil {
		return apiKey{}, err
	}
	event := by.event(tx, models.EventTokenCreated, who)
	event.TokenID = id
	return apiKey{text, id, token.ExpiresAt}, tx.AppendEvent(event)
}

func (p *program) tokenListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the API keys of a project",
		Long:  `Lists the API keys of a project, oldest first, or only those of one user with --user. The ids are not secret.`,
		Example: `  aikeysd admin token list --customer acme --project chat
  aikeysd admin token list --customer acme --project chat --user alice`,
	}
	a := p.newProjectAdmin(cmd)
	a.addUserFlag(cmd, false)
	a.reads = true
	return a.command(cmd, nil, func(ctx context.Context) error {
		tokens, err := a.store.ListTokens(ctx, a.customer, a.project, a.user)
		if err != nil {
			return err
		}
		now := time.Now().UnixMicro()
		table := a.NewTable("ID", "USER", "CREATED", "EXPIRES", "STATE")
		for _, t := range tokens {
			table.Row(t.ID, t.UserID, formatTime(t.CreatedAt), formatTime(t.ExpiresAt), credentialState(t.RevokedAt, t.Live(now)))
		}
		return table.Flush()
	})
}

// credentialState is the state of an API key or of a data plane's credential, for a table.
func credentialState(revokedAt int64, isLive bool) string {
	switch {
	case revokedAt != 0:
		return "revoked"
	case !isLive:
		return "expired"
	}
	return "active"
}

func (p *program) tokenRevokeCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:     "revoke",
		Short:   "Revoke an API key",
		Long:    `Revokes an API key permanently. Servers refuse it from the next request on, gateways within a second.`,
		Example: `  aikeysd admin token revoke --customer acme --project chat --id 01JD8Q6Z3V8M2T5K7N9R4W1XYZ`,
	}
	a := p.newProjectAdmin(cmd)
	cmd.Flags().StringVar(&id, "id", "", "id of the API key, as \"token list\" shows it (required)")
	return a.command(cmd, func() error {
		if _, err := ulid.ParseStrict(id); err != nil {
			return cli.Usagef("--id: must be an id as \"token list\" shows it, 26 characters; never give the API key itself")
		}
		return nil
	}, func(ctx context.Context) error {
		var token models.Token
		err := a.store.Transact(ctx, func(tx *models.Tx) (err error) {
			about := models.Caller{CustomerID: a.customer, ProjectID: a.project}
			token, err = tx.RevokeToken(a.customer, a.project, id, a.operator.event(tx, models.EventTokenRevoked, about))
			return err
		})
		if errors.Is(err, models.ErrNotFound) {
			return fmt.Errorf("%s has no API key with this id; see: %s", a.projectName(), a.projectCommand("token list"))
		}
		if err != nil {
			return err
		}
		a.Note("API key %s of %s for %s is revoked since %s", token.ID, token.UserID, a.projectInDatabase(), formatTime(token.RevokedAt))
		return nil
	})
}
