package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
	return p.newAdmin(&cobra.Command{
		Use:   "create",
		Short: "Create an API key for a member",
		Long: `Creates an API key for a member, and prints it alone on standard output, so that it can go straight into a file or a
secret store; notes go to standard error. It is shown this once.`,
		Example: `  (umask 077; aikeysd admin token create --customer acme --project chat --user alice > alice.token)
  aikeysd admin token create --customer acme --project chat --user ci --expires 30d`,
	}, adminSpec{user: required, flags: func(flags *pflag.FlagSet) {
		flags.StringVar(&expires, "expires", "0", "`lifetime` of the API key in hours or days, such as 720h or 30d; 0 does not expire")
	}, check: func() error {
		if _, err := lifetime(expires); err != nil {
			return cli.Usagef("--expires: %s", err)
		}
		return nil
	}, act: func(ctx context.Context, a *admin) error {
		life, err := lifetime(expires)
		if err != nil {
			return err
		}
		var minted apiKey
		err = a.store.Transact(ctx, func(tx *models.Tx) (err error) {
			minted, err = createToken(tx, &a.ids, a.caller(), life)
			return err
		})
		if errors.Is(err, models.ErrNotMember) {
			return a.noMember(ctx)
		}
		if err != nil {
			return err
		}
		a.Note("API key %s of %s for %s; expires: %s. It is shown this once.", minted.id, a.user, a.place(), moment(minted.expiresAt))
		return a.Say("%s", minted.text)
	}})
}

// noMember says how to make the user a member, who is an owner if they are the project's first.
func (a *admin) noMember(ctx context.Context) error {
	exists, err := a.projectExists(ctx)
	if err != nil {
		return err
	}
	role := models.RoleMember
	if !exists {
		role = models.RoleOwner
	}
	return fmt.Errorf("%s is no member of %s, so the API key would open nothing; first run: %s --user %s --role %s",
		a.user, a.where(), a.command("member set"), a.user, role)
}

// apiKey is an API key just made.
type apiKey struct {
	text, id  string
	expiresAt int64
}

// createToken mints an API key for a member, stores its hash, and records it: ErrNotMember for others.
func createToken(tx *models.Tx, ids *models.IDs, who models.Caller, expires time.Duration) (apiKey, error) {
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
	if expires > 0 {
		token.ExpiresAt = now.Add(expires).UnixMicro()
	}
	if err := tx.CreateToken(token); err != nil {
		return apiKey{}, err
	}
	event := adminEvent(ids, tx, models.EventTokenCreated, who)
	event.TokenID = id
	return apiKey{text, id, token.ExpiresAt}, tx.AppendEvent(event)
}

func (p *program) tokenListCommand() *cobra.Command {
	return p.newAdmin(&cobra.Command{
		Use:   "list",
		Short: "List the API keys of a project",
		Long:  `Lists the API keys of a project by age, those of one user if --user is given. The ids are no secrets.`,
		Example: `  aikeysd admin token list --customer acme --project chat
  aikeysd admin token list --customer acme --project chat --user alice`,
	}, adminSpec{user: optional, act: func(ctx context.Context, a *admin) error {
		if err := a.requireProject(ctx); err != nil {
			return err
		}
		tokens, err := a.store.ListTokens(ctx, a.customer, a.project, a.user)
		if err != nil {
			return err
		}
		now := time.Now().UnixMicro()
		table := a.NewTable("ID", "USER", "CREATED", "EXPIRES", "STATE")
		for _, t := range tokens {
			table.Row(t.ID, t.UserID, moment(t.CreatedAt), moment(t.ExpiresAt), credentialState(t.RevokedAt, t.Live(now)))
		}
		return table.Flush()
	}})
}

// credentialState is what has become of an API key or a data plane's credential.
func credentialState(revokedAt int64, live bool) string {
	switch {
	case revokedAt != 0:
		return "revoked"
	case !live:
		return "expired"
	}
	return "active"
}

func (p *program) tokenRevokeCommand() *cobra.Command {
	var id string
	return p.newAdmin(&cobra.Command{
		Use:     "revoke",
		Short:   "Revoke an API key",
		Long:    `Revokes an API key for good. Servers refuse it from the next request on, gateways within a second.`,
		Example: `  aikeysd admin token revoke --customer acme --project chat --id 01JD8Q6Z3V8M2T5K7N9R4W1XYZ`,
	}, adminSpec{flags: func(flags *pflag.FlagSet) {
		flags.StringVar(&id, "id", "", "id of the API key, as \"token list\" shows it (required)")
	}, check: func() error {
		if _, err := ulid.ParseStrict(id); err != nil {
			return cli.Usagef("--id: must be an id as \"token list\" shows it, 26 characters; never give the API key itself")
		}
		return nil
	}, act: func(ctx context.Context, a *admin) error {
		var token models.Token
		err := a.store.Transact(ctx, func(tx *models.Tx) (err error) {
			token, err = tx.RevokeToken(a.customer, a.project, id)
			if err != nil || token.RevokedAt != tx.Now {
				return err // it had been revoked before
			}
			event := adminEvent(&a.ids, tx, models.EventTokenRevoked, models.Caller{
				CustomerID: a.customer, ProjectID: a.project, UserID: token.UserID,
			})
			event.TokenID = token.ID
			return tx.AppendEvent(event)
		})
		if errors.Is(err, models.ErrNotFound) {
			return fmt.Errorf("%s has no API key with this id; see: %s", a.where(), a.command("token list"))
		}
		if err != nil {
			return err
		}
		a.Note("API key %s of %s for %s is revoked since %s", token.ID, token.UserID, a.place(), moment(token.RevokedAt))
		return nil
	}})
}
